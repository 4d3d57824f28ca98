"""The playground: its arithmetic is the library's, and the page works from disk, by itself."""

import base64
import re
import time
from functools import cache

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import kstest, norm

import rvlib as rv
from rvlib.attacks.smoothed import noisy_gradient
from rvlib.pipeline import Run
from rvlib.report.playground import NETWORKS, playground
from rvlib.smoothing import stream

pytestmark = [pytest.mark.browser, pytest.mark.slow]

PATIENCE = 120_000
"""Milliseconds until a page counts as never answering: the machine may be busy."""

BALLS = {
    "fgsm": rv.Linf(8 / 255),
    "pgd-linf": rv.Linf(8 / 255),
    "pgd-l2": rv.L2(0.5),
    "pgd-pixel-l2": rv.PixelL2(12 / 255),
}
STEPS = 5
RUN = Run.open("lesson", "cpu")


@pytest.fixture
def watched(watched):
    """Lend the page, which has asked for nothing and met no error when the test ends."""
    yield watched
    watched.assert_quiet()


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """Write the page to disk."""
    path = tmp_path_factory.mktemp("playground") / "playground.html"
    path.write_text(playground(), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def engine(browser, file):
    """Open the page for what its scripts compute: images and noise go in as base64."""
    page = browser.new_page()
    page.goto(file.as_uri())
    page.evaluate(
        """() => {
          window.floats = (text) => new Float32Array(bytesOf(text).buffer);
          window.text = (values) => toBase64Long(new Uint8Array(Float32Array.from(values).buffer));
          window.toBase64Long = (bytes) =>
            btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join(""));
          window.replay = (text) => {
            const all = floats(text);
            let read = 0;
            return (copy) => copy.set(all.subarray(read, (read += PIXELS)));
          };
          window.votes = (...given) => {
            const counts = new Array(CLASSES).fill(0);
            countVotes(...given, counts);
            return counts;
          };
          window.network = (name) => makeNetwork(readHalves(data.weights[name]));
        }"""
    )
    yield page
    page.close()


def send(x):
    return base64.b64encode(np.ascontiguousarray(x, dtype="<f4").tobytes()).decode()


def receive(text, *shape):
    return torch.from_numpy(np.frombuffer(base64.b64decode(text), "<f4").copy()).view(-1, *shape)


@cache
def in_16_bits(name):
    """Load a network with its weights rounded as the page has them."""
    return RUN.model(name).half().float()


def images(count):
    x, y = RUN.images(count)
    return x.contiguous(), y


# --- the engine -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NETWORKS)
def test_logits_and_gradients_are_the_librarys(name, engine):
    x, y = images(8)
    found = engine.evaluate(
        """([name, images, labels]) => images.map((image, i) => {
          const net = network(name), logits = Array.from(net.forward(floats(image)));
          return [logits, text(net.backward(logOdds(logits, labels[i]).slope))];
        })""",
        [name, [send(image) for image in x], y.tolist()],
    )
    model = in_16_bits(name)
    with torch.no_grad():
        expected = model(x)
    # Of a logit of 50 the last place is 4e-6, and each processor adds in its own order.
    logits = torch.tensor([logits for logits, _ in found])
    torch.testing.assert_close(logits, expected, rtol=2e-7, atol=1e-5)
    gradient = torch.cat([receive(text, 3, 32, 32) for _, text in found])
    torch.testing.assert_close(gradient, rv.input_gradient(model, x, y), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("attack", BALLS)
def test_every_step_of_an_attack_is_the_librarys(attack, engine):
    ball = BALLS[attack]
    single = attack == "fgsm"
    eta = ball.eps if single else 2.5 * ball.eps / STEPS
    x, y = images(3)
    for image, label in zip(x.split(1), y.split(1), strict=True):
        path, losses, fooled = engine.evaluate(
            """([image, label, options]) => {
              const net = network("standard"), uniform = makeUniform(1, 0);
              const run = attackOnce(net, floats(image), label, options, uniform);
              return [run.path.map(text), run.losses, run.fooled];
            }""",
            [send(image), int(label), {"attack": attack, "eps": ball.eps, "steps": STEPS}],
        )
        path = torch.cat([receive(text, 3, 32, 32) for text in path])
        assert len(path) == (2 if single else STEPS + 1)
        assert torch.equal(path[:1], image) == single  # PGD starts at random
        assert ball.norm(path - image).max() <= ball.eps * (1 + 1e-5)
        assert path.min() >= 0
        assert path.max() <= 1
        model = in_16_bits("standard")
        assert np.allclose(
            losses, rv.log_odds(model(path), label.expand(len(path))).tolist(), atol=1e-4
        )
        assert fooled == (model(path[-1:]).argmax(1) != label).item()
        for x_t, after in zip(path.split(1), path[1:].split(1), strict=False):
            gradient = rv.input_gradient(model, x_t, label)
            clear = gradient.abs() > 1e-6 * gradient.abs().max()
            expected = image + ball.project(x_t + eta * ball.steepest(gradient) - image)
            difference = (after - expected.clamp(0, 1))[clear].abs()
            assert clear.float().mean() > 0.9
            assert difference.max() < 1e-5


@pytest.mark.parametrize(("norm", "entries"), [("linf", 1), ("l2", 3072), ("pixel-l2", 3)])
def test_starts_are_uniform_in_the_ball(norm, entries, engine):
    found = engine.evaluate(
        """norm => Array.from({ length: 40 }, (_, seed) => {
          const v = new Float32Array(PIXELS);
          BALLS[norm].sample(v, 0.5, makeUniform(seed, 0));
          return text(v);
        })""",
        norm,
    )
    v = torch.cat([receive(text, 3, 32, 32) for text in found])
    length = {1: v.abs(), 3: v.norm(dim=1), 3072: v.flatten(1).norm(dim=1)}[entries]
    assert kstest(((length / 0.5) ** entries).flatten().numpy(), "uniform").pvalue > 1e-3
    assert abs(v.mean()) < 0.01


def test_noise_is_normal_and_streams_differ(engine):
    found = engine.evaluate(
        """() => [[0, 1], [0, 2], [1, 1]].map(([seed, purpose]) =>
          text(fillNormal(new Float32Array(20000), makeUniform(seed, purpose))))"""
    )
    streams = torch.stack([receive(text).flatten() for text in found])
    for values in streams:
        assert kstest(values.numpy(), norm.cdf).pvalue > 1e-3
    limit = 5 / 20000**0.5  # standard deviations of a correlation of independent values
    correlations = torch.corrcoef(torch.cat([streams, streams[:1].roll(1, 1)]))
    assert correlations.triu(1).abs().max() < limit


def test_the_same_noise_gives_the_same_votes(engine):
    noise = torch.randn(200, 3, 32, 32, generator=stream("cpu", 0, "playground"))
    x, _ = images(1)
    for name in ("gaussian-0.25", "standard"):
        counts = engine.evaluate(
            "([name, x, noise]) => votes(network(name), floats(x), 0.25, 200, replay(noise))",
            [name, send(x), send(noise)],
        )
        with torch.no_grad():
            votes = in_16_bits(name)(x + 0.25 * noise).argmax(1)
        assert counts == votes.bincount(minlength=10).tolist()


def test_the_gradient_under_noise_is_the_librarys(engine):
    x, y = images(1)
    sigma, draws = 0.5, 8
    drawn = torch.empty(1, draws, 32, 32, 3).normal_(generator=stream("cpu", 0, "a"))
    found = engine.evaluate(
        """([image, label, sigma, draws, noise]) => text(noisyGradient(
          network("gaussian-0.25"), floats(image), label, sigma, draws, replay(noise)))""",
        [send(x), int(y), sigma, draws, send(drawn.permute(0, 1, 4, 2, 3))],
    )
    model = in_16_bits("gaussian-0.25")
    expected = noisy_gradient(model, x, y, sigma, draws, stream("cpu", 0, "a"))
    torch.testing.assert_close(receive(found, 3, 32, 32), expected, rtol=1e-4, atol=1e-5)


def test_the_attack_on_the_vote_stays_in_the_ball_and_lowers_the_votes(engine):
    x, y = images(1)
    before, after, attacked = engine.evaluate(
        """([image, label]) => {
          const net = network("gaussian-0.25"), uniform = makeUniform(0, 0), x = floats(image);
          const fill = (copy) => fillNormal(copy, uniform), options = { sigma: 0.25, eps: 0.5 };
          const attacked = smoothedAttack(net, x, label, { ...options, steps: 4, draws: 8 }, fill);
          const share = (image) => votes(net, image, 0.25, 200, fill)[label];
          return [share(x), share(attacked), text(attacked)];
        }""",
        [send(x), int(y)],
    )
    change = receive(attacked, 3, 32, 32) - x
    assert 0.49 < rv.L2(0.5).norm(change).item() <= 0.5 * (1 + 1e-6)
    assert after < before - 20


def test_bounds_and_quantiles_are_scipys(engine):
    trials = [(1, 2), (10, 10), (55, 100), (999, 1000), (9_000, 10_000), (99_990, 100_000), (0, 10)]
    for alpha in (0.05, 0.001):
        found = engine.evaluate(
            "([trials, alpha]) => trials.map(([k, n]) => lowerConfidenceBound(k, n, alpha))",
            [trials, alpha],
        )
        expected = rv.lower_confidence_bound(*np.transpose(trials), alpha)
        np.testing.assert_allclose(found, expected, rtol=1e-9)
    p = np.concatenate([np.linspace(0.01, 0.99, 99), 1 - np.geomspace(1e-8, 1e-3, 20)])
    upper = p[p >= 0.5]
    found = engine.evaluate("p => p.map(inverseNormal)", upper.tolist())
    np.testing.assert_allclose(found, norm.ppf(upper), rtol=1e-8, atol=1e-12)
    radii = engine.evaluate("p => p.map((share) => certifiedRadius(share, 0.25))", p.tolist())
    np.testing.assert_allclose(radii, rv.certified_radius(p, 0.25), rtol=1e-8, atol=1e-12)


# --- the page -------------------------------------------------------------------------------------


def visit(watched, file, state=""):
    """Open the page in a state and wait until its numbers have come to rest."""
    watched.page.set_default_timeout(PATIENCE)
    watched.page.goto("about:blank")
    watched.page.goto(f"{file.as_uri()}#{state}")
    return rest(watched)


def rest(watched):
    """Wait for every side that is shown; what they say."""
    watched.page.wait_for_function(
        """() => [...document.querySelectorAll(".side")].filter((side) => side.checkVisibility())
          .every((side) => side.ariaBusy === "false")""",
        polling=50,  # milliseconds: by default it asks, and so draws, 60 times a second
    )
    return [words.inner_text() for words in watched.page.locator(".verdict:visible").all()]


def move(watched, label, key):
    """Press a key on a control; what the first side then says."""
    watched.page.get_by_label(label).press(key)
    return rest(watched)[0]


def test_the_page_attacks_from_disk_and_asks_for_nothing(file, watched, artefacts):
    watched.page.set_viewport_size({"width": 1280, "height": 720})
    (said,) = visit(watched, file)
    assert said.startswith("Fooled: ")
    watched.page.screenshot(path=artefacts / "playground.png")
    assert move(watched, "radius ε", "Home").startswith("This attack does not fool it: ")
    watched.page.get_by_label("show step").press("ArrowLeft")
    assert "step 9 of 10" in watched.page.inner_text(".pictures")
    watched.page.get_by_label("kind").select_option("fgsm")
    assert move(watched, "radius ε", "End").startswith("Fooled: ")
    assert watched.page.get_by_label("restarts").is_disabled()
    watched.page.wait_for_function("location.hash.includes('attack=fgsm')")
    assert "steps=10&restarts=1" in watched.page.evaluate("location.hash")


def test_radii_of_one_scale_stay_and_a_held_key_writes_the_address_once(file, watched):
    visit(watched, file, "attack=fgsm&eps=16")
    page = watched.page
    page.evaluate("""() => {
      window.written = [];
      history.replaceState = (state, title, address) => written.push(address);
    }""")
    for attack, eps in (("pgd-linf", "16"), ("pgd-l2", "0.5"), ("pgd-pixel-l2", "8")):
        page.get_by_label("kind").select_option(attack)
        assert page.get_by_label("radius ε").input_value() == eps
    for _ in range(5):
        page.get_by_label("radius ε").press("ArrowRight")
    page.wait_for_function("written.length")
    assert [address.split("&eps=")[1][:2] for address in page.evaluate("written")] == ["13"]


def test_an_older_browser_runs_it_and_what_does_not_run_is_said(file, watched, tmp_path):
    text, name = file.read_text(encoding="utf-8"), list(NETWORKS)[1]
    worker = '<script type="text/plain" id="worker">'
    for old, new in (
        (worker, f"{worker}\ndelete Array.prototype.toReversed;"),
        (f'"{name}":"', f'"{name}":"?'),  # no base64
    ):
        assert text.count(old) == 1
        text = text.replace(old, new)
    (tmp_path / "old.html").write_text(text, encoding="utf-8")
    runs, broken = visit(watched, tmp_path / "old.html", "two=on")
    assert runs.startswith("Fooled: ")
    assert broken.startswith("This browser cannot run the page's worker: ")
    watched.wrong.clear()  # what was planted


# What a side says at every step of a path, if these are the network's answers there.
SAY = """(answers) => {
  const path = answers.map((_, step) => new Float32Array(PIXELS).fill(Math.min(step, 1) / 255));
  const losses = answers.map(() => 0), before = answers[0];
  const found = { before, truth: 0, runs: [losses], path, losses, answers };
  const own = Worker, root = document.querySelectorAll(".side")[1];
  window.Worker = class {
    postMessage({ id, task }) { if (task) this.onmessage({ data: { id, ...found } }); }
  };
  const side = makeSide(root, data);
  window.Worker = own;
  const said = answers.map((_, at) => {
    side.show({ mode: "attack", x: path[0], label: 0, at, within: "1/255" });
    return root.querySelector(".verdict").textContent;
  });
  return [said, root.querySelector(".change + figcaption").textContent];
}"""


def test_every_step_says_whether_it_fools(engine):
    sure, fooled = [0.997, 0.003, *[0] * 8], [0.4, 0.6, *[0] * 8]
    (first, middle, last), change = engine.evaluate(SAY, [sure, fooled, sure])
    assert middle.startswith("Fooled: “airplane” (>99 %) without an attack, “automobile” (60 %)")
    for words in (first, last):
        assert re.match(r"Not at this step: .* here; another step fools it\. ", words)
    assert change == "change × 130"
    said, _ = engine.evaluate(SAY, [sure, sure])
    assert all(words.startswith("This attack does not fool it: ") for words in said)


RECORD = """window.all = [];
addEventListener("DOMContentLoaded", () => {
  const verdict = document.querySelector(".verdict"); // about:blank has none
  const note = () => all.push(verdict.textContent);
  if (verdict) new MutationObserver(note).observe(verdict, { childList: true });
});"""


def test_votes_stream_in_and_the_certificate_is_the_librarys(file, watched, artefacts):
    watched.page.set_viewport_size({"width": 1280, "height": 720})
    watched.page.add_init_script(RECORD)
    state = "mode=vote&network=gaussian-0.25&n=100&strike=on&reach=1"
    (said,) = visit(watched, file, state)
    watched.page.screenshot(path=artefacts / "playground-vote.png")
    pattern = r"(\d+) of (\d+) votes: .* p ≥ ([\d.]+) .* R = ([\d.]+) .* at most ([\d.]+)\."
    numbers = re.search(pattern, said)
    assert numbers, said
    k, n = int(numbers[1]), int(numbers[2])
    p = float(rv.lower_confidence_bound(k, n, 0.001))
    radius, cap = float(rv.certified_radius(p, 0.25)), rv.largest_radius(n, 0.001, 0.25)
    for shown, exact, digits in zip(numbers.groups()[2:], (p, radius, cap), (4, 3, 3), strict=True):
        assert 0 <= exact - float(shown) < 10.0**-digits  # rounded down: promises no more
    assert "Attacked inside the ball, at 1 R: still" in said
    early = [words for words in watched.page.evaluate("all") if "of 100 votes" not in words]
    assert len(early) > 1
    counting = r"Counting: “\w+” has \d+ of \d+ votes so far; 100 are wanted\. "
    assert all(re.fullmatch(counting, words) for words in early)  # no guarantee before the end
    watched.page.get_by_label("its ε").press("End")
    assert "outside the ball, at 6 R" in rest(watched)[0]


def test_what_is_switched_off_stops(file, watched):
    page, start = watched.page, time.monotonic()
    visit(watched, file, "mode=vote&network=gaussian-0.25&n=100&strike=on")
    seconds = time.monotonic() - start
    page.evaluate("""() => {
      for (const on of [false, true, false]) {
        for (const name of ["strike", "two"]) field(name).checked = on;
        update();
      }
    }""")
    page.wait_for_timeout(1000 * seconds)  # all of it could be computed once more
    assert "attacked picture" not in page.inner_text(".pictures")
    assert not page.locator(".verdict").nth(1).text_content()  # nobody sees it
    page.get_by_label("two networks").check()
    assert all("of 100 votes" in words for words in rest(watched))


def test_a_vote_without_a_majority_certifies_nothing(file, watched):
    (said,) = visit(watched, file, "mode=vote&picture=cifar-1&sigma=1&n=100&strike=on")
    end = "; not surely above one half, so nothing is certified. There is no radius to attack at."
    assert said.endswith(end)


def test_the_address_restores_the_state(file, watched):
    first = visit(watched, file)
    page = watched.page
    page.get_by_label("two networks").check()
    page.get_by_role("radio", name="drawn by this page: automobile").check()
    page.get_by_role("combobox", name="First network").select_option("mixed-at")
    page.get_by_label("kind").select_option("pgd-l2")
    for label, key in (("radius ε", "End"), ("steps", "ArrowLeft"), ("restarts", "ArrowRight")):
        page.get_by_role("slider", name=label).press(key)
    page.get_by_role("button", name="Other random numbers").click()
    said = rest(watched)
    page.wait_for_function("location.hash.includes('seed=1')")
    address = page.evaluate("location.href")
    form = page.evaluate("new URLSearchParams(new FormData(form)).toString()")
    visit(watched, file)
    page.goto(address)
    assert page.evaluate("new URLSearchParams(new FormData(form)).toString()") == form
    assert rest(watched) == said != first
    assert len(said) == 2


def test_an_address_that_means_nothing_is_named(file, watched):
    visit(watched, file, "network=vgg&eps=9999&own=x&picture=cifar-7&seed=nonsense&two=yes")
    note = watched.page.inner_text("#note")
    refused = "own=x, network=vgg, seed=nonsense, two=yes, eps=9999"
    assert note == f"This page has no {refused}; the usual value is shown."
    assert watched.page.evaluate("form.elements.seed.value") == "0"
    assert watched.page.get_by_role("combobox", name="First network").input_value() == "standard"
    assert watched.page.get_by_label("radius ε").input_value() == "8"
    watched.page.get_by_label("radius ε").press("ArrowRight")
    assert watched.page.inner_text("#note") == ""  # it was about another state


def test_a_file_becomes_the_picture_and_part_of_the_address(file, watched, tmp_path):
    watched.page.set_viewport_size({"width": 390, "height": 844})
    tray = watched.page.locator("#tray")

    def seen(picture):
        around, inside = tray.bounding_box(), picture.bounding_box()
        left = inside["x"] - around["x"]
        return 0 <= left <= around["width"] - inside["width"]

    visit(watched, file, "picture=car")
    assert seen(tray.locator("label:has(:checked)"))
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "own.png")
    for _ in range(2):  # the same file may be given again
        tray.get_by_role("radio", name="drawn by this page: ship").check()
        watched.page.set_input_files("#file", tmp_path / "own.png")
        watched.page.wait_for_function("form.elements.picture.value === 'own'")
    rest(watched)
    assert seen(watched.page.locator("#own-picture"))
    table = watched.page.locator(".answers:visible")
    assert "(its answer)" in table.inner_text()
    watched.page.get_by_label("true class").select_option("cat")
    rest(watched)
    assert "cat (true)" in table.inner_text()
    watched.page.wait_for_function("location.hash.includes('label=3')")
    shown = "Array.from(chosen().x, (value) => Math.round(255 * value))"
    assert watched.page.evaluate(shown) == pixels.transpose(2, 0, 1).ravel().tolist()
    visit(watched, file, watched.page.evaluate("location.hash.slice(1)"))
    assert watched.page.evaluate(shown) == pixels.transpose(2, 0, 1).ravel().tolist()
    (tmp_path / "notes.txt").write_text("no picture")
    watched.page.set_input_files("#file", tmp_path / "notes.txt")
    watched.page.wait_for_function("note.textContent")
    assert "notes.txt is no picture" in watched.page.inner_text("#note")


def test_drawing_by_keys_and_the_camera(file, watched):
    visit(watched, file)
    page = watched.page
    page.get_by_text("Draw on it").click()
    page.get_by_role("button", name="White sheet").click()
    page.locator("#pen canvas").press("ArrowRight")
    inked = "chosen().x.filter((value) => value < 1).length"
    assert 0 < page.evaluate(inked) <= 12  # a pen of 2 x 2 pixels
    page.get_by_role("radio", name="drawn by this page: ship").check()
    sheet = page.locator("#pen canvas").evaluate_handle("sheet => sheet.getContext('2d')")
    same = "sheet => toPlanes(bytesOn(sheet)).every((value, i) => value === chosen().x[i])"
    assert page.evaluate(same, sheet)  # and no longer the one that was drawn
    page.get_by_label("true class").select_option("cat")
    page.locator("#pen canvas").press("ArrowRight")
    page.get_by_role("radio", name="drawn by this page: automobile").check()
    assert page.get_by_label("true class").input_value() == ""
    page.locator("#pen canvas").press("ArrowRight")  # changes the picture, not its class
    assert page.locator("[name=label] :checked").inner_text() == "automobile"
    page.get_by_role("radio", name="drawn by this page: automobile").check()
    page.wait_for_function("location.hash.includes('picture=car')")
    page.reload()
    assert page.get_by_role("radio", name="your own picture").is_visible()
    page.evaluate("""() => {
      const media = navigator.mediaDevices, lend = media.getUserMedia.bind(media);
      window.lent = [];
      media.getUserMedia = async (wanted) => lent[lent.push(await lend(wanted)) - 1];
      for (let click = 0; click < 2; click++) document.getElementById("camera").click();
    }""")
    take = page.get_by_role("button", name="Take the picture")
    take.click()
    page.get_by_role("button", name="Camera").wait_for()
    assert page.evaluate(inked) > 100
    for ends in ("button", "radio"):  # without a picture of it
        page.get_by_role("button", name="Camera").click()
        take.wait_for()
        names = {"button": "Cancel", "radio": "drawn by this page: ship"}
        page.get_by_role(ends, name=names[ends]).click()
        page.get_by_role("button", name="Camera").wait_for()
    assert page.evaluate("lent.map((stream) => stream.active)") == [False] * 3
    assert page.evaluate("form.elements.picture.value") == "ship"
    rest(watched)


def test_drawing_by_mouse(file, watched):
    visit(watched, file)
    page, mouse = watched.page, watched.page.mouse
    page.get_by_text("Draw on it").click()
    page.get_by_role("button", name="White sheet").click()
    box = page.locator("#pen canvas").bounding_box()
    left, middle = box["x"] + 10, box["y"] + box["height"] / 2
    inked = "chosen().x.slice(2048).filter((value) => value < 1).length"
    mouse.move(left, box["y"] - 40)
    mouse.down()
    mouse.move(left, middle)  # a drag that began outside
    mouse.up()
    mouse.click(left, middle, button="right")
    assert page.evaluate(inked) == 0
    mouse.move(left, middle)
    mouse.down()
    mouse.move(left + 160, middle)  # in one go
    mouse.up()
    assert 50 <= page.evaluate(inked) <= 60


def test_paper_is_white_and_shows_bars(file, watched):
    visit(watched, file)
    watched.page.emulate_media(media="print", color_scheme="dark")
    colour, printed = watched.page.evaluate("""() => [
      getComputedStyle(document.body).backgroundColor,
      getComputedStyle(document.querySelector(".bar")).printColorAdjust,
    ]""")
    assert (colour, printed) == ("rgb(255, 255, 255)", "exact")


NAMELESS = """() => [
  ...[...document.querySelectorAll("input, select, button")]
    .filter((e) => e.type !== "hidden"
      && !(e.ariaLabel || (e.matches("button") && e.textContent.trim())
      || [...(e.labels ?? [])].some((label) => label.textContent.trim()))),
  ...[...document.querySelectorAll("canvas, svg")]
    .filter((e) => e.checkVisibility() && !e.getAttribute("aria-label")),
].map((e) => e.outerHTML.slice(0, 80))"""


@pytest.mark.parametrize("mode", ["attack", "vote"])
def test_a_phone_scrolls_one_way_and_everything_has_a_name(mode, file, watched, artefacts):
    watched.page.set_viewport_size({"width": 360, "height": 740})
    visit(watched, file, f"mode={mode}&two=on&n=100")
    for scheme in ("light", "dark"):
        watched.page.emulate_media(color_scheme=scheme)
        watched.page.screenshot(path=artefacts / f"playground-{mode}-{scheme}.png", full_page=True)
        assert watched.page.evaluate("document.documentElement.scrollWidth") == 360
        assert watched.page.evaluate(NAMELESS) == []


def test_arrow_keys_reach_pictures_and_sliders(file, watched):
    visit(watched, file)
    page = watched.page
    seen = []
    for _ in range(12):
        page.keyboard.press("Tab")
        seen.append(page.evaluate("document.activeElement.name || document.activeElement.tagName"))
    assert {"mode", "two", "picture", "label", "attack", "eps", "steps"} <= set(seen)
    page.get_by_label("true class").select_option("cat")
    page.locator("[name=picture]:checked").press("ArrowRight")
    assert page.evaluate("form.elements.picture.value") == "cifar-1"
    assert page.evaluate("form.elements.label.value") == ""  # it was that of the other picture

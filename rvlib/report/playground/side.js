// One network's part of the page: its worker, and what it shows of a task's findings.

const down = (value, digits = 3) => (Math.floor(10 ** digits * value) / 10 ** digits).toFixed(digits);
const count = (n) => n.toLocaleString("en");

function makeSide(root, { classes, weights, alpha }) {
  const source = ["engine", "worker"].map((id) => document.getElementById(id).textContent).join("\n");
  const worker = new Worker(URL.createObjectURL(new Blob([source], { type: "text/javascript" })));
  worker.postMessage({ weights });
  const part = (name) => root.querySelector(`.${name}`);
  const quote = (k) => `“${classes[k]}”`;
  let id = 0, hear = () => {};
  let options = {}, computed = [], found, votes; // what is wanted; what was computed for which options

  worker.onmessage = ({ data }) => data.id === id && hear(data);
  worker.onerror = ({ message }) => say(`This browser cannot run the page's worker: ${message}`);

  const ask = (task, more, heard) => {
    hear = heard;
    root.ariaBusy = "true";
    worker.postMessage({ id: ++id, task, alpha, ...options, ...more });
  };
  // What still comes from the task that runs is not heard.
  const stop = () => worker.postMessage({ stop: ++id });
  // Words are read aloud only when the numbers have come to rest.
  const say = (text, done = true) => {
    part("verdict").textContent = text;
    root.ariaBusy = String(!done);
  };
  const picture = (name, x, title) => {
    paint(part(name), x, title);
    part(name).nextElementSibling.textContent = title;
  };
  const change = (x, attacked) => {
    const delta = attacked.map((a, i) => a - x[i]), most = delta.reduce((m, d) => Math.max(m, Math.abs(d)), 0);
    const times = most ? 0.5 / most : 1;
    const title = most ? `change × ${Number(times.toPrecision(2))}` : "no change";
    picture("change", delta.map((d) => 0.5 + times * d), title);
    return delta;
  };

  // --- one attacked picture ---------------------------------------------------------------------

  function showAttack() {
    const { x, label, at, within } = options, { before, truth, runs, path, losses, answers } = found;
    const last = path.length - 1, step = Math.min(at, last), answer = argmax(answers[step]);
    picture("first", x, "picture");
    const delta = change(x, path[step]);
    picture("last", path[step], `step ${step} of ${last}`);
    showAnswers(part("answers"), classes, [truth, label === null ? "its answer" : "true"], ["picture", before], ["attacked", answers[step]]);
    showPath(runs, losses, answers, truth, step);
    const was = argmax(before), length = Math.hypot(...delta);
    const size = `The change is at most ${within}; its l2 length is ${length.toFixed(2)}.`;
    const start = `${quote(was)} (${percent(before[was])}) without an attack`;
    const end = `${quote(answer)} (${percent(answers[step][answer])})`;
    const fools = answers.some((some) => argmax(some) !== truth);
    say(was !== truth ? `Wrong already: ${start}, and the true class is ${quote(truth)}.`
      : answer !== truth ? `Fooled: ${start}, ${end} with it. ${size}`
      : fools ? `Not at this step: ${start}, ${end} here; another step fools it. ${size}`
      : `This attack does not fool it: ${start}, ${end} at step ${step}. A stronger one may. ${size}`);
  }

  function showPath(runs, losses, answers, truth, step) {
    const all = runs.flat(), min = Math.min(0, ...all), max = Math.max(0, ...all), last = losses.length - 1;
    const asPoints = (values) => values.map((loss, t) => [t, loss]);
    const words = `The loss goes from ${losses[0].toFixed(1)} to ${losses[last].toFixed(1)} in ${last} steps.`;
    showLines(part("path"), words, {
      x: { label: "step", min: 0, max: last, ticks: ticks(0, last).filter(Number.isInteger) },
      y: { min, max, ticks: ticks(min, max) },
      levels: [{ at: 0, text: "above: true class below 50 %" }],
      lines: [
        ...runs.map((values) => ({ points: asPoints(values), className: "other" })),
        { points: asPoints(losses), className: "after" },
      ],
      marks: losses.map((loss, t) => ({
        at: [t, loss],
        className: `${argmax(answers[t]) === truth ? "stands" : "fooled"}${t === step ? " here" : ""}`,
      })),
    });
  }

  // --- votes ------------------------------------------------------------------------------------

  function vote() {
    votes = { clean: [], attacked: [] };
    ask("vote", { purpose: 1 }, (more) => {
      votes.clean.push(more);
      showVotes();
      if (more.votes === options.n) strike();
    });
  }

  const isStruck = () => options.strike && votes.clean.at(-1).radius > 0;

  function strike() {
    const { selected, radius } = votes.clean.at(-1), eps = options.reach * radius;
    Object.assign(votes, { attacked: [], picture: null, reach: isStruck() && options.reach });
    showVotes();
    if (!isStruck()) return stop();
    // 1 - 1e-6: inside, whatever rounding does.
    ask("strike", { label: selected, eps: eps * (1 - 1e-6) }, ({ attacked }) => {
      votes.picture = attacked;
      ask("vote", { x: attacked, purpose: 2 }, (more) => {
        votes.attacked.push(more);
        showVotes();
      });
    });
  }

  function showVotes() {
    const { x, label, n, sigma } = options, { clean, attacked, picture: struck } = votes;
    const now = clean.at(-1), then = attacked.at(-1), selected = now.selected;
    const shares = (votes) => votes?.counts.map((k) => k / votes.votes);
    const along = (all, value) => all.map((some) => [some.votes, value(some)]);
    const agree = ({ counts, votes }) => counts[selected] / votes;
    picture("first", x, "picture");
    picture("change", (then ?? now).copy, `noise, σ = ${sigma}`);
    picture("last", struck ?? x, struck ? "attacked picture" : "not attacked");
    showAnswers(part("answers"), classes, [label, "true"], ["votes", shares(now)], ["attacked", shares(then)]);
    const axis = { label: "votes", min: 10, max: n, log: true, ticks: powers(n), text: count };
    showLines(part("bound"), `The bound on the share of ${quote(selected)} is ${down(now.lower, 4)}.`, {
      x: axis,
      y: { min: 0, max: 1, ticks: [0, 0.5, 1] },
      levels: [{ at: 0.5, text: "above: certified" }],
      lines: [
        { points: along(attacked, agree), className: "after" },
        { points: along(clean, agree), className: "share" },
        { points: along(clean, ({ lower }) => lower), className: "before" },
      ],
    });
    const most = certifiedRadius(alpha ** (1 / n), sigma);
    showLines(part("radius"), `The certified radius is ${down(now.radius)}, and at most ${down(now.cap)}.`, {
      x: axis,
      y: { min: 0, max: most, ticks: ticks(0, most) },
      lines: [
        { points: along(clean, ({ cap }) => cap), className: "cap" },
        { points: along(clean, ({ radius }) => radius), className: "before" },
      ],
    });
    const done = now.votes === n && (!isStruck() || then?.votes === n);
    say(`${certificate(now)} ${afterStrike(now, then)}`, done);
  }

  function certificate({ selected, counts, votes, lower, radius, cap }) {
    const { label, n } = options, mine = count(counts[selected]);
    if (votes < n) return `Counting: ${quote(selected)} has ${mine} of ${count(votes)} votes so far; ${count(n)} are wanted.`;
    const agree = `${mine} of ${count(votes)} votes: ${quote(selected)}`;
    const wrong = label !== null && selected !== label ? ` (the true class is ${quote(label)})` : "";
    if (!radius) return `${agree}${wrong}; not surely above one half, so nothing is certified.`;
    return `${agree}${wrong}, p ≥ ${down(lower, 4)} (${100 * (1 - alpha)} % confidence). No change shorter than `
      + `R = ${down(radius)} (l2) alters it; so many votes certify at most ${down(cap)}.`;
  }

  function afterStrike({ selected, votes, radius }, then) {
    const { strike, reach } = options;
    if (!strike || votes < options.n) return "";
    if (!radius) return "There is no radius to attack at.";
    if (then?.votes !== options.n) return "The attack on the vote is being computed and counted.";
    const answer = argmax(then.counts), share = percent(then.counts[answer] / then.votes);
    const where = `Attacked ${reach <= 1 ? "inside" : "outside"} the ball, at ${reach} R`;
    if (answer === selected) return `${where}: still ${quote(answer)}, by ${share} of the votes.`;
    return reach <= 1 ? `${where}: ${quote(answer)} by ${share}. A certificate fails with probability at most ${alpha}.`
      : `${where}, where nothing is promised: ${quote(answer)}, by ${share} of the votes.`;
  }

  // Computes what has changed, and shows it.
  function show(wanted) {
    options = wanted;
    const { mode, network, x, label, attack, eps, steps, restarts, seed, sigma, n } = options;
    const key = mode === "attack" ? [network, x, label, attack, eps, steps, restarts, seed]
      : [network, x, sigma, n, seed];
    root.dataset.mode = mode;
    if (key.length === computed.length && key.every((value, i) => value === computed[i])) {
      if (mode === "attack") return found && showAttack();
      if (votes.clean.at(-1)?.votes === n) return isStruck() && options.reach === votes.reach ? showVotes() : strike();
      return;
    }
    [computed, found] = [key, null];
    if (mode === "vote") return vote();
    ask("attack", {}, (more) => {
      found = more;
      showAttack();
    });
  }

  // While the side is hidden: what is not complete is begun again when it is shown.
  function rest() {
    if (root.ariaBusy === "true") computed = [];
    stop();
  }

  return { show, rest };
}

const powers = (n) => Array.from({ length: Math.round(Math.log10(n)) }, (_, i) => 10 ** (i + 1));

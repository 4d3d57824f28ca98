// Runs beside the page: a task comes as a message, findings go back with the task's number. A newer
// task, or the word to stop, ends the one that runs, at its next pause.

const SELECTION = 100; // votes that choose the class, apart from those that bound its probability
const DRAWS = 16; // noisy copies for a gradient of the attack on the vote
const VOTE_STEPS = 10;

let weights = {}, current = 0;
const networks = {};

onmessage = ({ data }) => {
  if (data.weights) weights = data.weights;
  else if (data.stop) current = data.stop;
  else run(data).catch((error) => setTimeout(() => { throw error; })); // so that the page hears of it
};

async function run({ id, task, network, ...options }) {
  current = id;
  const goesOn = async () => { // lets waiting messages in
    await new Promise((resolve) => {
      const { port1, port2 } = new MessageChannel();
      port1.onmessage = () => { port1.close(); resolve(); };
      port2.postMessage(0);
    });
    return id === current;
  };
  if (!(await goesOn())) return; // a slider that moves on makes many tasks: the last one counts
  networks[network] ??= makeNetwork(readHalves(weights[network]));
  await TASKS[task](networks[network], options, goesOn, (found) => postMessage({ id, ...found }));
}

const TASKS = {
  // The first run that fools, else that of the highest loss, as rvlib.pgd with restarts.
  async attack(network, { x, label, restarts, seed, ...options }, goesOn, tell) {
    const before = probabilities(network.forward(x)), truth = label ?? argmax(before), runs = [];
    let best;
    do {
      const run = attackOnce(network, x, truth, options, makeUniform(seed, runs.length));
      runs.push(run.losses);
      if (!best || run.fooled || run.losses.at(-1) > best.losses.at(-1)) best = run;
    } while (!best.fooled && runs.length < restarts && (await goesOn()));
    const answers = best.logits.map(probabilities);
    tell({ before, truth, runs, path: best.path, losses: best.losses, answers });
  },

  // Certify (Cohen et al. 2019): every finding holds for the votes so far.
  async vote(network, { x, sigma, n, alpha, seed, purpose }, goesOn, tell) {
    const [choose, estimate] = [1, 2].map((part) => {
      const uniform = makeUniform(seed, 1000 * purpose + part);
      return (copy) => fillNormal(copy, uniform);
    });
    const counts0 = new Array(CLASSES).fill(0), counts = new Array(CLASSES).fill(0);
    countVotes(network, x, sigma, SELECTION, choose, counts0);
    const selected = argmax(counts0);
    for (let done = 0; done < n && (await goesOn()); ) {
      const some = Math.min(n - done, Math.max(10, Math.min(200, Math.floor(done / 16))));
      const copy = countVotes(network, x, sigma, some, estimate, counts);
      done += some;
      const lower = lowerConfidenceBound(counts[selected], done, alpha);
      const radius = certifiedRadius(lower, sigma), cap = certifiedRadius(alpha ** (1 / done), sigma);
      tell({ selected, counts, votes: done, lower, radius, cap, copy });
    }
  },

  async strike(network, { x, label, sigma, eps, seed }, goesOn, tell) {
    const uniform = makeUniform(seed, 0), options = { sigma, eps, steps: VOTE_STEPS, draws: DRAWS };
    tell({ attacked: smoothedAttack(network, x, label, options, (copy) => fillNormal(copy, uniform)) });
  },
};

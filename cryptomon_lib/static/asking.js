// Questions of the page: to the server that serves it, or to the kernel where there is none.

// the answer is that it cannot be given, in words for the viewer
class Problem extends Error {}
// nobody answered
class Unreachable extends Error {}

const PATIENCE_MS = 60000;

function asker(model, host) {
  return host.data ? askServer(host.data) : askKernel(model);
}

function askServer(base) {
  return async (question, asked = {}) => {
    let answer;
    try {
      answer = await fetch(`${base}${question}?${new URLSearchParams(asked)}`, { headers: { Accept: "application/json" }, signal: AbortSignal.timeout(PATIENCE_MS) });
    } catch {
      throw new Unreachable("the server does not answer");
    }
    // the login has run out: the page asks for it anew
    if (answer.redirected || answer.status === 401 || answer.status === 403) { location.reload(); throw new Unreachable("the login has run out"); }
    const said = await answer.json().catch(() => ({ problem: `The server answers HTTP ${answer.status}.` }));
    if (!answer.ok) throw new Problem(said.problem);
    return said;
  };
}

function askKernel(model) {
  const waiting = new Map();
  let last = 0;
  model.on("msg:custom", ({ type, id, said }) => {
    if (type !== "answer" || !waiting.has(id)) return;
    const { resolve, reject } = waiting.get(id);
    waiting.delete(id);
    if (said.problem) reject(new Problem(said.problem));
    else resolve(said);
  });
  return (question, asked = {}) => new Promise((resolve, reject) => {
    const id = ++last;
    waiting.set(id, { resolve, reject });
    setTimeout(() => waiting.delete(id) && reject(new Unreachable("the kernel does not answer")), PATIENCE_MS);
    model.send({ type: "ask", id, question, asked });
  });
}

/** The page's side of worker.js. */

export class Client {
  /** @param tell Called with the bytes that have arrived of the model and the bytes of all of it. */
  constructor(tell) {
    this.waiting = new Map();
    this.next = 0;
    this.worker = new Worker(new URL("./worker.js", import.meta.url), { type: "module" });
    this.worker.onmessage = ({ data }) => (data.number === undefined ? tell(data.arrived, data.total) : this.settle(data));
    this.worker.onerror = () => {
      const error = "expected worker.js and what it imports, got a script that does not start: use a newer browser, or build the page again";
      for (const number of [...this.waiting.keys()]) this.settle({ number, error });
    };
  }

  /** What a task of worker.js gives; rejected with an Error where it fails. */
  do(task, given) {
    const number = this.next++;
    this.worker.postMessage({ number, task, given });
    return new Promise((resolve, reject) => this.waiting.set(number, { resolve, reject }));
  }

  settle({ number, result, error }) {
    const { resolve, reject } = this.waiting.get(number);
    this.waiting.delete(number);
    if (error === undefined) resolve(result);
    else reject(new Error(error));
  }
}

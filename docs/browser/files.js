/** Files beside the page, with what has arrived of them. */

/**
 * Gives the bytes of files beside the page, and says how many of all have arrived.
 *
 * @param sizes {address: bytes} of all files that will be asked for.
 * @param tell Called with the bytes that have arrived and the bytes of all files.
 */
export function reader(sizes, tell) {
  const total = Object.values(sizes).reduce((a, b) => a + b, 0);
  let arrived = 0;
  return async function get(address) {
    const response = await open(address);
    const bytes = new Uint8Array(sizes[address]);
    let at = 0;
    for await (const part of parts(response)) {
      if (at + part.length <= bytes.length) bytes.set(part, at);
      at += part.length;
      tell((arrived += part.length), total);
    }
    if (at !== bytes.length) {
      const found = `${at.toLocaleString("en")} in ${address}`;
      throw new Error(`expected ${bytes.length.toLocaleString("en")} bytes, got ${found}: reload the page, or build it again`);
    }
    return bytes.buffer;
  };
}

/** A file beside the page that holds JSON. */
export async function getJson(address) {
  return (await open(address)).json();
}

async function open(address) {
  let got = "no answer";
  try {
    const response = await fetch(address, { cache: "no-cache" });
    if (response.ok) return response;
    got = `HTTP status ${response.status}`;
  } catch {} // fetch says nothing more than that there was no answer
  throw new Error(`expected the file ${address} beside this page, got ${got}: reload the page, or build it again by make browser`);
}

async function* parts(response) {
  const body = response.body.getReader();
  for (let next = await body.read(); !next.done; next = await body.read()) yield next.value;
}

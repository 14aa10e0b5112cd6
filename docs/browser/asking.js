/** Words: how similar they are to the photo, and where one fits best. */

import { drawHeat, drawImage, frame, range } from "./draw.js";
import { $, client, complain, make, shownLevels, state, unchanged, whole } from "./page.js";

const NEAREST = 8;

/** Fills the list of words, and waits for one. */
export function prepareWords() {
  const { words } = state.facts;
  $("words").append(...words.map((word) => make("option", { value: word })));
  $("words-count").textContent = whole(words.length);
  $("ask").onsubmit = (event) => {
    event.preventDefault();
    askFor($("word").value);
  };
  $("forget").onclick = () => {
    $("word").value = "";
    $("word-told").textContent = "";
    state.word = -1;
    showWords().catch(complain);
  };
}

function askFor(text) {
  const wanted = text.trim().toLowerCase(), { words } = state.facts;
  const found = words.findIndex((word) => word.toLowerCase() === wanted);
  if (found < 0) {
    $("word-told").textContent = refusal(wanted, words);
    return;
  }
  state.word = found;
  $("word").value = words[found];
  showWords().catch(complain);
}

/** What to do about a word that is not in the list. */
function refusal(wanted, words) {
  const expected = `expected one of the ${whole(words.length)} words`;
  if (!wanted) return `${expected}, got none: type one, or choose it from the list`;
  const near = words.filter((word) => word.toLowerCase().includes(wanted) || wanted.includes(word.toLowerCase()));
  const advice = near.length ? `try ${near.slice(0, 5).join(", ")}` : "the list opens while you type";
  return `${expected}, got “${wanted}”: ${advice}`;
}

/** Shows the most similar words of the levels that are shown, and the photo with the map of the chosen word. */
export async function showWords() {
  const then = { ...state }, levels = shownLevels(), { word, imageIds } = state;
  const { embedding, cosines } = await client.do("similarity", { levels, imageIds });
  const heat = word < 0 ? null : { word, ...(await client.do("heat", { levels, word })) };
  if (!unchanged(then) || word !== state.word) return;
  Object.assign(state, { embedding, cosines, heat });
  const order = Array.from(cosines.keys()).sort((a, b) => cosines[b] - cosines[a]);
  $("nearest").replaceChildren(...order.slice(0, NEAREST).map(wordButton));
  if (word >= 0) {
    const place = `${whole(order.indexOf(word) + 1)} of ${whole(order.length)} words`;
    $("word-told").textContent = `${state.facts.words[word]}: cosine ${signed(cosines[word])} with the photo, place ${place}`;
  }
  showPhoto();
}

function wordButton(word) {
  const name = state.facts.words[word];
  const cosine = make("span", { className: "pale" }, signed(state.cosines[word]));
  return make("button", { type: "button", onclick: () => askFor(name) }, name, " ", cosine);
}

const signed = (number) => number.toFixed(2).replace("-", "−");

/** Draws the photo, with the map of the chosen word and a frame around the chosen cell where there are such. */
export function showPhoto() {
  const { image, heat, cell, facts } = state;
  $("legend").hidden = !heat;
  const size = `${image.width} x ${image.height} px`;
  if (heat) {
    drawHeat($("photo"), image, heat);
    [$("lowest").textContent, $("highest").textContent] = range(heat.values).map(signed);
    $("photo-told").textContent = `Where “${facts.words[heat.word]}” fits best`;
  } else {
    drawImage($("photo"), image);
    $("photo-told").textContent = `The photo as the model reads it, ${size}`;
  }
  $("photo").setAttribute("aria-label", $("photo-told").textContent);
  if (cell) frame($("photo"), cell.row, cell.column, facts.strides[cell.level]);
}

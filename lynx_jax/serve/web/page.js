// Starts the page: waits for the server, asks for a key where one is needed, then shows chat and steps.

import { Chat } from "./chat.js";
import { json, Refused, setKey } from "./server.js";
import { Steps } from "./steps.js";

const model = document.getElementById("model");

async function named() {
  for (;;) {
    try {
      return (await json("v1/models")).data[0].id;
    } catch (error) {
      if (error instanceof Refused && error.status === 401) await askForKey();
      else await pause("the server does not answer");
    }
  }
}

async function pause(message) {
  model.textContent = message;
  await new Promise((resolve) => setTimeout(resolve, 1000));
}

function askForKey() {
  model.textContent = "the server asks for a key";
  const form = document.getElementById("key-form");
  form.hidden = false;
  document.getElementById("key").focus();
  return new Promise((resolve) => {
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      setKey(document.getElementById("key").value.trim());
      form.hidden = true;
      resolve();
    }, { once: true });
  });
}

async function start() {
  const name = await named();
  const about = await json("v1/lynx/about");
  new Chat(name);
  document.getElementById("quality").value = about.quality;
  model.textContent = `${name}, policy ${about.policy}, ${about.slots} slots`;
  document.getElementById("text").focus();
  await new Steps().follow();
}

start().catch((error) => {
  model.textContent = error.message;
});

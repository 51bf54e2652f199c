// The conversation: what is said is set as text, never as markup.

import { events } from "./server.js";

const MOST_SHOWN = 200;

export class Chat {
  constructor(model) {
    this.model = model;
    this.messages = [];
    this.running = null;
    this.turns = document.getElementById("turns");
    this.text = document.getElementById("text");
    this.send = document.getElementById("send");
    this.stop = document.getElementById("stop");
    document.getElementById("ask").addEventListener("submit", (event) => {
      event.preventDefault();
      this.ask();
    });
    this.text.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
        event.preventDefault();
        this.ask();
      }
    });
    document.addEventListener("keydown", (event) => event.key === "Escape" && this.running?.abort());
    this.stop.addEventListener("click", () => this.running?.abort());
    document.getElementById("clear").addEventListener("click", () => this.clear());
  }

  clear() {
    this.running?.abort();
    this.messages = [];
    this.turns.replaceChildren();
    this.text.focus();
  }

  async ask() {
    const content = this.text.value.trim();
    if (!content || this.running) return;
    this.text.value = "";
    const messages = [...this.messages, { role: "user", content }];
    this.messages = messages;
    this.show("user", "You").said.textContent = content;
    const quality = document.getElementById("quality").value;
    const turn = this.show("assistant", `${this.model}, ${quality}`);
    const running = new AbortController();
    this.setRunning(running);
    const begin = performance.now();
    let said = "", thought = "", first = null, usage = null, reason = null;
    const body = {
      model: this.model, messages, quality, stream: true, stream_options: { include_usage: true },
      max_tokens: Number(document.getElementById("most").value) || 256,
    };
    try {
      const options = { method: "POST", body: JSON.stringify(body), signal: running.signal };
      for await (const chunk of events("v1/chat/completions", options)) {
        usage = chunk.usage ?? usage;
        for (const choice of chunk.choices) {
          reason = choice.finish_reason ?? reason;
          said += choice.delta.content ?? "";
          thought += choice.delta.reasoning_content ?? "";
          if (first === null && (said || thought)) first = performance.now() - begin;
        }
        this.grow(turn, said, thought);
      }
    } catch (error) {
      if (error.name === "AbortError") reason = "stopped";
      else this.fail(turn, error.message);
    } finally {
      if (this.running === running) this.setRunning(null);
    }
    if (this.messages === messages && said) this.messages = [...messages, { role: "assistant", content: said }];
    turn.who.textContent += summary(performance.now() - begin, first, usage, reason);
  }

  setRunning(running) {
    this.running = running;
    this.send.disabled = running !== null;
    this.stop.disabled = running === null;
  }

  show(kind, who) {
    const item = document.createElement("li");
    item.className = `turn ${kind}`;
    const parts = { item };
    for (const name of ["who", "thought", "said"]) {
      parts[name] = document.createElement("div");
      parts[name].className = name;
      item.append(parts[name]);
    }
    parts.who.textContent = who;
    this.turns.append(item);
    while (this.turns.childElementCount > MOST_SHOWN) this.turns.firstElementChild.remove();
    this.turns.scrollTop = this.turns.scrollHeight;
    return parts;
  }

  grow(turn, said, thought) {
    const below = this.turns.scrollHeight - this.turns.scrollTop - this.turns.clientHeight;
    turn.said.textContent = said;
    turn.thought.textContent = thought;
    // Whoever has scrolled up reads there.
    if (below < 40) this.turns.scrollTop = this.turns.scrollHeight;
  }

  fail(turn, message) {
    turn.item.classList.add("wrong");
    turn.item.setAttribute("role", "alert");
    turn.said.textContent += `${turn.said.textContent ? "\n" : ""}${message}`;
  }
}

function summary(total, first, usage, reason) {
  const parts = [];
  if (usage) parts.push(`${usage.completion_tokens} tokens`);
  if (first !== null) parts.push(`first after ${Math.round(first)} ms`);
  if (usage && usage.completion_tokens > 1 && total > first) {
    parts.push(`${Math.round(((usage.completion_tokens - 1) * 1000) / (total - first))} tokens/s`);
  }
  if (reason && reason !== "stop") parts.push(reason);
  return parts.length ? ` · ${parts.join(" · ")}` : "";
}

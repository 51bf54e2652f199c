// What the engine's steps do, as the server tells it several times a second: the map, figures, lines and table.

import { events, Refused } from "./server.js";
import { ExpertMap, KINDS } from "./map.js";

const POINTS = 120;

export class Steps {
  constructor() {
    this.map = new ExpertMap(document.getElementById("map"));
    this.stepMs = [];
    this.running = [];
    this.waiting = [];
    this.body = document.getElementById("layers");
  }

  // Follows the server until it refuses; a connection that breaks off is made anew.
  async follow() {
    for (;;) {
      try {
        for await (const event of events("v1/lynx/steps")) this.show(event);
      } catch (error) {
        if (error instanceof Refused) throw error;
      }
      await new Promise((resolve) => setTimeout(resolve, 1000));
    }
  }

  show(event) {
    this.running.push(event.running);
    this.waiting.push(event.waiting);
    this.stepMs.push(...event.step_ms);
    for (const list of [this.running, this.waiting, this.stepMs]) list.splice(0, list.length - POINTS);
    drawLine("step-line", [this.stepMs]);
    drawLine("queue-line", [this.running, this.waiting]);
    setText("queue-now", `${event.running} running, ${event.waiting} waiting`);
    if (!event.new) {
      this.map.rest();
      return;
    }
    if (this.stepMs.length) setText("step-now", `${this.stepMs.at(-1).toFixed(1)} ms`);
    setText("read", event.read.toFixed(1));
    setText("own", event.own === null ? "–" : event.own.toFixed(1));
    setText("saved", event.own ? `${Math.round(100 * Math.max(0, 1 - event.read / event.own))} %` : "–");
    setText("retained", event.retained === null ? "–" : event.retained.toFixed(3));
    const counts = Object.fromEntries(KINDS.map((kind) => [kind, decode(event.counts[kind])]));
    this.map.add(event.layers, event.experts, counts, event.new);
    const own = event.own === null ? "" : `, of ${event.own.toFixed(1)} that the model itself would read`;
    setText("map-says", `${event.read.toFixed(1)} of ${event.experts} experts read a layer${own}`);
    this.showLayers(event, counts);
  }

  showLayers(event, counts) {
    if (!this.body.closest("details").open) return;
    while (this.body.childElementCount < event.layers) {
      const row = this.body.insertRow();
      const name = document.createElement("th");
      name.scope = "row";
      name.textContent = String(row.rowIndex);
      row.append(name);
      for (const _ of KINDS) row.insertCell();
    }
    [...this.body.rows].forEach((row, layer) => {
      KINDS.forEach((kind, at) => {
        const part = counts[kind].subarray(layer * event.experts, (layer + 1) * event.experts);
        row.cells[at + 1].textContent = (part.reduce((sum, one) => sum + one, 0) / event.new).toFixed(1);
      });
    });
  }
}

function decode(text) {
  return Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
}

function setText(id, text) {
  document.getElementById(id).textContent = text;
}

function drawLine(id, lists) {
  const most = Math.max(1e-9, ...lists.flat());
  [...document.getElementById(id).querySelectorAll("polyline")].forEach((line, at) => {
    const from = POINTS - lists[at].length;
    line.setAttribute("points", lists[at].map((value, x) => `${from + x},${29 - (28 * value) / most}`).join(" "));
  });
}

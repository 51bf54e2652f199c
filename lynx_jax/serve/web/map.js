// Layers by experts on a canvas: the colour says who reads an expert, its strength in how many of the newest steps.

export const KINDS = ["prompts", "exact", "adaptive", "saved"];

const still = matchMedia("(prefers-reduced-motion: reduce)");
// What is left of the older steps at each event.
const KEPT = 0.7;

export class ExpertMap {
  constructor(canvas) {
    this.canvas = canvas;
    this.layers = this.experts = 0;
    new ResizeObserver(() => this.paint()).observe(canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.paint());
  }

  // Adds the steps of one event: for each kind, in how many of `steps` an expert was of that kind.
  add(layers, experts, counts, steps) {
    if (layers !== this.layers || experts !== this.experts) {
      [this.layers, this.experts] = [layers, experts];
      this.shares = Object.fromEntries(KINDS.map((kind) => [kind, new Float32Array(layers * experts)]));
      this.canvas.style.setProperty("height", `${layers * Math.max(6, Math.min(16, 320 / layers))}px`);
    }
    const kept = still.matches ? 0 : KEPT;
    for (const kind of KINDS) {
      const shares = this.shares[kind];
      counts[kind].forEach((count, at) => {
        shares[at] = kept * shares[at] + ((1 - kept) * count) / steps;
      });
    }
    this.paint();
  }

  // No step: what was read fades.
  rest() {
    if (!this.layers || still.matches) return;
    for (const kind of KINDS) this.shares[kind].forEach((share, at, all) => (all[at] = KEPT * share));
    this.paint();
  }

  paint() {
    if (!this.layers) return;
    const { canvas, layers, experts } = this;
    const scale = window.devicePixelRatio || 1;
    const [width, height] = [Math.round(canvas.clientWidth * scale), Math.round(canvas.clientHeight * scale)];
    if (canvas.width !== width || canvas.height !== height) [canvas.width, canvas.height] = [width, height];
    const style = getComputedStyle(canvas);
    const brush = canvas.getContext("2d");
    const colours = KINDS.map((kind) => style.getPropertyValue(`--${kind}`));
    const empty = style.getPropertyValue("--empty");
    const [cell, row] = [width / experts, height / layers];
    const gap = cell > 5 ? scale : 0;
    brush.clearRect(0, 0, width, height);
    for (let layer = 0; layer < layers; layer++) {
      for (let expert = 0; expert < experts; expert++) {
        const at = layer * experts + expert;
        const box = [expert * cell, layer * row, cell - gap, row - gap];
        brush.globalAlpha = 1;
        brush.fillStyle = empty;
        brush.fillRect(...box);
        let strongest = 0;
        KINDS.forEach((kind, index) => {
          if (this.shares[kind][at] > this.shares[KINDS[strongest]][at]) strongest = index;
        });
        // Experts that few steps read should be seen too.
        brush.globalAlpha = Math.min(1, Math.sqrt(this.shares[KINDS[strongest]][at]));
        brush.fillStyle = colours[strongest];
        brush.fillRect(...box);
      }
    }
    brush.globalAlpha = 1;
  }
}

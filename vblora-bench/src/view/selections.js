"use strict";
// Decodes recorded selections. recordings/mod.rs describes the format.

/** One selection: the k `indices` and k `weights` of each sub-vector at recorded step number `frame`. */
class Selections {
  /** Copies of some selections are kept at regular intervals, so that going back is fast. */
  static KEPT = 32;

  constructor({ s, k, lengths, bodies }) {
    this.k = k;
    this.bodies = Uint8Array.from(atob(bodies), c => c.charCodeAt(0));
    this.starts = [0];
    for (const length of lengths) this.starts.push(this.starts.at(-1) + length);
    this.copies = [];
    this.indices = new Uint32Array(s * k);
    this.weights = new Uint8Array(s * k);
    this.frame = -1;
  }

  goTo(target) {
    const copy = Math.floor(target / Selections.KEPT);
    if (target < this.frame || (copy > Math.floor(this.frame / Selections.KEPT) && this.copies[copy])) {
      this.indices.set(this.copies[copy].indices);
      this.weights.set(this.copies[copy].weights);
      this.frame = copy * Selections.KEPT;
    }
    while (this.frame < target) this.next();
  }

  /** Applies the changes of the next recorded step. */
  next() {
    this.frame += 1;
    const { k, bodies, indices, weights } = this;
    const end = this.starts[this.frame + 1];
    let at = this.starts[this.frame], row = 0;
    const number = () => {
      let value = 0, unit = 1, byte;
      do {
        byte = bodies[at++];
        value += (byte & 127) * unit;
        unit *= 128;
      } while (byte & 128);
      return value;
    };
    while (at < end) {
      const head = number();
      row += Math.floor(head / 2);
      if (head % 2) for (let j = 0; j < k; j++) indices[row * k + j] = number();
      for (let j = 0; j < k; j++) weights[row * k + j] = bodies[at++];
      row += 1;
    }
    const copy = this.frame / Selections.KEPT;
    if (Number.isInteger(copy) && !this.copies[copy]) {
      this.copies[copy] = { indices: indices.slice(), weights: weights.slice() };
    }
  }
}

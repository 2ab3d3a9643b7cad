// Takes the microphone's samples, averages its channels, and passes them on in chunks of a tenth of a second.
"use strict";

registerProcessor("recorder", class extends AudioWorkletProcessor {
  constructor() {
    super();
    this.chunk = new Float32Array(Math.round(sampleRate / 10));
    this.size = 0;                                      // samples in it
    this.port.onmessage = () => { this.pass(); this.port.postMessage(null); this.ended = true; };
  }

  pass() {
    if (this.size) this.port.postMessage(this.chunk.slice(0, this.size));
    this.size = 0;
  }

  process([channels]) {
    for (let i = 0; channels.length && i < channels[0].length; i++) {
      let sum = 0;
      for (const channel of channels) sum += channel[i];
      this.chunk[this.size++] = sum / channels.length;
      if (this.size === this.chunk.length) this.pass();
    }
    return !this.ended;
  }
});

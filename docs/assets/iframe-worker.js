// Search on pages that were opened from the file system. Browsers give such a page no worker, so a hidden frame of the
// page runs the worker's script. mkdocs-material's `offline` plugin would fetch a script for this from the network.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    #frame = document.createElement("iframe");
    #ready;

    constructor(url) {
      super();
      this.#frame.hidden = true;
      this.#ready = new Promise((done) => this.#frame.addEventListener("load", done, { once: true }));
      document.body.append(this.#frame);
      this.#ready = this.#ready.then(() => this.#run(url));
    }

    #run(url) {
      const { contentWindow: scope, contentDocument: page } = this.#frame;
      scope.postMessage = (data) => this.dispatchEvent(new MessageEvent("message", { data }));
      return new Promise((done) => {
        const script = page.createElement("script");
        script.addEventListener("load", done, { once: true });
        script.src = url;
        page.head.append(script);
      });
    }

    postMessage(data) {
      this.#ready.then(() => this.#frame.contentWindow.dispatchEvent(new MessageEvent("message", { data })));
    }

    terminate() {
      this.#frame.remove();
    }
  };
}

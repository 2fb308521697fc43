/* Search runs in a worker, and browsers refuse workers to pages on file://.
   There, this puts a hidden frame in the worker's place: same script, same messages, same thread.
   The search script asks whether its parent has an IFrameWorker and then loads its parts relative to its own address. */
(function () {
  if (location.protocol !== "file:") return

  class IFrameWorker extends EventTarget {
    constructor(url) {
      super()
      const frame = document.createElement("iframe")
      frame.hidden = true
      document.body.appendChild(frame)
      const inner = this.inner = frame.contentWindow
      this.waiting = []
      inner.postMessage = data => this.dispatchEvent(new MessageEvent("message", { data }))
      inner.importScripts = (...urls) => urls.reduce((done, src) => done.then(() => new Promise((resolve, reject) => {
        const script = inner.document.createElement("script")
        Object.assign(script, { src, onload: resolve, onerror: reject })
        inner.document.body.appendChild(script)
      })), Promise.resolve())
      const script = inner.document.createElement("script")
      script.src = url
      script.onload = () => { const held = this.waiting; this.waiting = null; held.forEach(o => this.postMessage(o)) }
      inner.document.body.appendChild(script)
    }
    postMessage(data) {
      if (this.waiting) this.waiting.push(data)
      else this.inner.dispatchEvent(new MessageEvent("message", { data }))
    }
    terminate() { this.inner.frameElement.remove() }
  }

  window.IFrameWorker = IFrameWorker
  window.Worker = IFrameWorker
})()

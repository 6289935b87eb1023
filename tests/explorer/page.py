"""An explorer in a plain page of headless Chromium, with a model whose messages the real Python side answers."""

import base64
from pathlib import Path

import haystack_kernel.explorer
from haystack_kernel.explorer.messages import answer

STATIC = Path(haystack_kernel.explorer.__file__).parent / "static"
PAPER = {"light": "#ffffff", "dark": "#111111"}
START = """async ([code, twin]) => {
  const unpack = (text) => new DataView(Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0)).buffer);
  const pack = (buffer) => btoa(Array.from(new Uint8Array(buffer), (one) => String.fromCharCode(one)).join(""));
  const listeners = new Set();
  window.asked = [];
  window.deaf = false;
  const model = {
    get: (name) => ({ twin })[name],
    on: (_, listener) => listeners.add(listener),
    off: (_, listener) => listeners.delete(listener),
    send: async (content, _, buffers = []) => {
      window.asked.push(content);
      if (window.deaf) return;
      window.began = performance.now();
      for (const reply of await window.python(content, buffers.map(pack))) {
        for (const listener of listeners) listener(reply.content, reply.buffers.map(unpack));
      }
    },
  };
  const url = URL.createObjectURL(new Blob([code], { type: "text/javascript" }));
  const found = (await import(url)).default;
  window.stop = found.render({ model, el: document.getElementById("root") });
}"""


def open_page(browser, state, *, scheme="light", width=1200, height=1000, twin="", variables=""):
    """A page with the explorer of ``state``, painted at least once; ``page.said`` is what went wrong."""
    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
    page = context.new_page()
    page.set_default_timeout(120_000)
    page.said = []
    page.on("console", lambda message: page.said.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: page.said.append(str(error)))
    page.on("request", lambda one: page.said.append(one.url) if one.url.startswith("http") else None)

    def python(content, buffers):
        replies = answer(state, content, [base64.b64decode(text) for text in buffers])
        return [
            {"content": reply.content, "buffers": [base64.b64encode(one).decode() for one in reply.buffers]}
            for reply in replies
        ]

    page.expose_function("python", python)
    css = (STATIC / "explorer.css").read_text(encoding="utf-8")
    page.set_content(
        f"<!doctype html><html lang=en><head><title>t</title><style>body{{margin:8px;background:{PAPER[scheme]}}}"
        f":root{{{variables}}}{css}</style></head>"
        "<body><main><h1>Explorer</h1><div id=root></div></main></body></html>"
    )
    page.evaluate(START, [(STATIC / "explorer.js").read_text(encoding="utf-8"), twin])
    page.locator(".hx[data-state=ready][data-painted]").wait_for()
    page.locator(".hx tbody tr[data-name]").first.wait_for()
    return page


def lasso(page, *, box=(0.0, 0.0, 1.0, 1.0), selected=True):
    """Draw around a part of the map, given as shares of its width and height, and wait for the answer."""
    page.locator(".hx-lasso").scroll_into_view_if_needed()
    place = page.locator(".hx-lasso").bounding_box()
    xs = [place["x"] + 1 + share * (place["width"] - 2) for share in box[::2]]
    ys = [place["y"] + 1 + share * (place["height"] - 2) for share in box[1::2]]
    page.mouse.move(xs[0], ys[0])
    page.mouse.down()
    for x, y in ((xs[1], ys[0]), (xs[1], ys[1]), (xs[0], ys[1]), (xs[0], ys[0] + 4)):
        page.mouse.move(x, y, steps=4)
    page.mouse.up()
    if selected:
        page.locator(".hx[data-selected]:not([data-selected='0'])").wait_for()

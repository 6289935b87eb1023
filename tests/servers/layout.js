// Which text under an element overlaps other text, is cut or leaves the box; which picture is not drawn or not described.
(root) => {
  const found = [];
  const shorten = (text) => text.trim().replace(/\s+/g, ' ').slice(0, 40);
  const texts = [];
  const walker = document.createTreeWalker(root, NodeFilter.SHOW_TEXT);
  const scrolls = (value) => value === 'auto' || value === 'scroll';
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    if (!node.data.trim()) continue;
    const holder = node.parentElement;
    if (!holder.checkVisibility({ opacityProperty: true, visibilityProperty: true })) continue;
    if (holder.closest('details:not([open])') && !holder.closest('summary')) continue;
    if (holder.closest('[data-may-overlap], .sr-only, title, style, script')) continue;
    const range = document.createRange();
    range.selectNodeContents(node);
    for (const drawn of range.getClientRects()) {
      if (drawn.width < 1 || drawn.height < 1) continue;
      let box = { left: drawn.left, right: drawn.right, top: drawn.top, bottom: drawn.bottom };
      let isCut = false;
      for (let outer = holder; outer && root.contains(outer); outer = outer.parentElement) {
        const style = getComputedStyle(outer);
        if (style.display === 'inline' || style.display === 'contents') continue;
        const edge = outer.getBoundingClientRect();
        const across = style.overflowX !== 'visible', down = style.overflowY !== 'visible';
        // what can be scrolled to is not cut; what cannot be is
        if (across && (box.left < edge.left - 1.5 || box.right > edge.right + 1.5)) {
          if (!scrolls(style.overflowX)) isCut = true;
          box.left = Math.max(box.left, edge.left); box.right = Math.min(box.right, edge.right);
        }
        if (down && (box.top < edge.top - 1.5 || box.bottom > edge.bottom + 1.5)) {
          if (!scrolls(style.overflowY)) isCut = true;
          box.top = Math.max(box.top, edge.top); box.bottom = Math.min(box.bottom, edge.bottom);
        }
      }
      if (isCut) found.push(`cut: ${shorten(node.data)}`);
      if (box.right - box.left < 1 || box.bottom - box.top < 1) continue;
      const whole = root.getBoundingClientRect();
      const beyond = Math.max(whole.left - box.left, box.right - whole.right);
      if (beyond > 1.5) found.push(`outside, by ${Math.round(beyond)} px: ${shorten(node.data)}`);
      texts.push({ box, node, holder });
    }
  }
  texts.sort((a, b) => a.box.top - b.box.top);
  for (let one = 0; one < texts.length; one += 1) {
    for (let other = one + 1; other < texts.length; other += 1) {
      const a = texts[one], b = texts[other];
      if (b.box.top > a.box.bottom) break;
      if (a.node === b.node) continue;
      const across = Math.min(a.box.right, b.box.right) - Math.max(a.box.left, b.box.left);
      const down = Math.min(a.box.bottom, b.box.bottom) - Math.max(a.box.top, b.box.top);
      // boxes of lines are higher than their letters: a third of the smaller one must be shared
      const least = Math.min(a.box.bottom - a.box.top, b.box.bottom - b.box.top) / 3;
      if (across > 2 && down > Math.max(2, least))
        found.push(`overlap: ${shorten(a.node.data)} | ${shorten(b.node.data)}`);
    }
  }
  for (const image of root.querySelectorAll('img')) {
    if (!image.checkVisibility()) continue;
    if (!image.complete || image.naturalWidth === 0) found.push(`not drawn: ${image.alt}`);
    if (!image.alt.trim()) found.push(`picture without alternative text: ${image.src.slice(0, 40)}`);
  }
  return [...new Set(found)];
}

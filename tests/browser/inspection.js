// What tests ask of a page. Evaluated in it, for a script of the test's own would be refused by the policy.

(() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });

  const rgba = (color) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = color;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const isOpaque = (color) => color !== "none" && rgba(color)[3] === 255;
  const lightness = (color) => {
    const linear = (value) => (value <= 0.03928 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4);
    const [red, green, blue] = rgba(color).map((value) => linear(value / 255));
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
  };
  const contrast = (ink, ground) => {
    const [dark, light] = [lightness(ink), lightness(ground)].sort((a, b) => a - b);
    return (light + 0.05) / (dark + 0.05);
  };
  const groundOf = (element) => {
    const box = element.closest(".b-node, .b-group")?.querySelector(".b-box");
    if (box && isOpaque(getComputedStyle(box).fill)) return getComputedStyle(box).fill;
    for (let at = element; at; at = at.parentElement) {
      const color = getComputedStyle(at).backgroundColor;
      if (isOpaque(color)) return color;
    }
    return "Canvas";
  };
  const all = (selector) => [...document.querySelectorAll(selector)];
  const isShown = (element) => element.getClientRects().length > 0;
  const markup = (element) => element.outerHTML.slice(0, 200);

  globalThis.inspection = {
    // What moves towards a new colour is there at once, and what inherits it as well.
    arrive: () => {
      for (let turn = 0; turn < 10; turn += 1) {
        const moving = document.getAnimations().filter((each) => each instanceof CSSTransition);
        if (!moving.length) return;
        for (const each of moving) each.finish();
      }
    },

    // Text in pictures, which axe does not judge: its ink against the node, or the ground, that it stands on.
    paleText: () =>
      all(".baton svg text")
        .filter((text) => text.textContent && isShown(text))
        .map((text) => [text.textContent, getComputedStyle(text).fill, groundOf(text)])
        .filter(([, ink, ground]) => contrast(ink, ground) < 4.5)
        .map(([words, ink, ground]) => `${words}: ${ink} on ${ground}`),

    // Links that are more than text: they are underlined under the pointer only.
    underlined: () =>
      all(".baton a:is(.b-tab, .b-chip, .b-button, .b-tile, .b-tl-row), .baton svg a")
        .filter((link) => getComputedStyle(link).textDecorationLine !== "none")
        .map(markup),

    // A state is a word before it is a colour: an icon that is not read out has words beside it.
    wordless: () =>
      all(".baton .b-icon:not([aria-label])")
        .filter((icon) => isShown(icon) && !icon.closest("svg a, a, li, td, span, p, dd, summary")?.textContent.trim())
        .map((icon) => markup(icon.parentElement)),

    // What reaches beyond the right edge, where it does not scroll by itself.
    wider: (width) =>
      all("body *")
        .filter((each) => each.getBoundingClientRect().right > width + 0.5 && !each.closest(".b-scrolls, svg"))
        .map(markup)
        .slice(0, 5),

    doubleText: () => {
      const texts = all(".baton, .baton *:not(svg, svg *)");
      const sizes = texts.map((each) => parseFloat(getComputedStyle(each).fontSize) * 2);
      texts.forEach((each, index) => each.style.setProperty("font-size", `${sizes[index]}px`));
    },

    // Text that a box hides, but for what is for the ear only and what says by an ellipsis that it goes on.
    cutText: () =>
      all(".baton *:not(svg, svg *)")
        .filter((each) => {
          const style = getComputedStyle(each);
          const isCutting = [style.overflowX, style.overflowY].some((value) => ["hidden", "clip"].includes(value));
          const isMeant = style.clipPath !== "none" || style.textOverflow === "ellipsis";
          const isLarger = each.scrollWidth > each.clientWidth + 1 || each.scrollHeight > each.clientHeight + 1;
          return isCutting && !isMeant && isLarger && each.innerText?.trim();
        })
        .map(markup),
  };
})();

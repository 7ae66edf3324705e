// The body of a function: how many texts a page shows, and those that stand out too little from what is behind them.
// WCAG 2.2 (1.4.3) asks for a ratio of 4.5, or 3 where text is large, by the formula of relative luminance given there.
const painter = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
const rgba = (text) => {
  painter.clearRect(0, 0, 1, 1);
  painter.fillStyle = text;
  painter.fillRect(0, 0, 1, 1);
  return [...painter.getImageData(0, 0, 1, 1).data];
};
const linear = (part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
const luminance = ([red, green, blue]) =>
  0.2126 * linear(red / 255) + 0.7152 * linear(green / 255) + 0.0722 * linear(blue / 255);
const behind = (one) => {
  const colour = rgba(getComputedStyle(one).backgroundColor);
  return colour[3] === 255 ? colour : behind(one.parentElement);
};
const texts = [...document.querySelectorAll("body *")].filter((one) => one.checkVisibility()
  && [...one.childNodes].some((node) => node.nodeType === Node.TEXT_NODE && node.textContent.trim()));
const faint = texts.filter((one) => {
  const style = getComputedStyle(one);
  const [ink, page] = [rgba(one.closest("svg") ? style.fill : style.color), behind(one)].map(luminance);
  const size = parseFloat(style.fontSize);
  const large = size >= 24 || (style.fontWeight >= 700 && size >= 18.66);
  return (Math.max(ink, page) + 0.05) / (Math.min(ink, page) + 0.05) < (large ? 3 : 4.5);
});
return [texts.length, faint.map((one) => one.outerHTML.slice(0, 80))];

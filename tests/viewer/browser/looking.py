"""What any sight of the page is looked at for: overflow, contrast, emptiness, foreign elements."""

from __future__ import annotations

import io
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from playwright.sync_api import Frame, Page

_OVERFLOW = """() => {
  const wide = document.documentElement.clientWidth;
  if (document.documentElement.scrollWidth <= wide) return [];
  return [...document.querySelectorAll("body *")]
    .filter((each) => each.getBoundingClientRect().right > wide + 1)
    .slice(0, 10).map((each) => `${each.tagName}.${each.className}`);
}"""

# The contrast of every text that is seen against what is behind it, as WCAG computes it.
_FAINT = """() => {
  const canvas = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
  const known = new Map();
  const rgba = (color) => {
    if (!known.has(color)) {
      canvas.clearRect(0, 0, 1, 1);
      canvas.fillStyle = color;
      canvas.fillRect(0, 0, 1, 1);
      known.set(color, [...canvas.getImageData(0, 0, 1, 1).data]);
    }
    return known.get(color);
  };
  const over = (top, below) => {
    const part = top[3] / 255;
    return [0, 1, 2].map((n) => top[n] * part + below[n] * (1 - part)).concat(255);
  };
  const behind = (element) => {
    const layers = [];
    for (let at = element; at; at = at.parentElement) {
      const found = rgba(getComputedStyle(at).backgroundColor);
      if (found[3]) layers.push(found);
      if (found[3] === 255) break;
    }
    return layers.reduceRight((below, top) => over(top, below), [255, 255, 255, 255]);
  };
  const light = (color) => {
    const linear = (n) => (n <= 0.04045 ? n / 12.92 : ((n + 0.055) / 1.055) ** 2.4);
    const [r, g, b] = color.map((n) => linear(n / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const faint = [];
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const element = texts.currentNode.parentElement;
    const text = texts.currentNode.data.trim();
    if (!text || element.closest("svg, noscript, script, :disabled, .unseen, .skip")) continue;
    if (!element.checkVisibility({ opacityProperty: true, visibilityProperty: true })) continue;
    const style = getComputedStyle(element);
    const below = behind(element);
    const [a, b] = [light(over(rgba(style.color), below)), light(below)].sort((x, y) => y - x);
    const size = parseFloat(style.fontSize);
    const large = size >= 24 || (size >= 18.66 && style.fontWeight >= 700);
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio >= (large ? 3 : 4.5) - 0.01) continue;
    faint.push(`${ratio.toFixed(2)} ${element.className}: ${text.slice(0, 40)}`);
  }
  return faint;
}"""

_UNNAMED = """() => [...document.querySelectorAll(
  "button, a[href], input, select, canvas, [role=grid], [tabindex='0']")]
  .filter((each) => each.checkVisibility() && !each.closest("[aria-hidden=true], [role=img]"))
  .filter((each) => {
    const says = ["aria-label", "aria-labelledby", "title"].some((name) => each.getAttribute(name));
    return !(says || each.textContent.trim() || each.labels?.length);
  })
  .map((each) => each.outerHTML.slice(0, 120))"""


def said(value: float) -> str:
    """Write a number as the page does: to four digits, fewer where they tell it exactly."""
    if float(value).is_integer() and abs(value) < 1e6:
        return str(int(value))
    large = not 1e-3 <= abs(value) < 1e6
    near = f"{value:.3e}" if large else f"{value:#.4g}".rstrip(".")
    if not large:
        return str(float(value)) if float(near) == value else near
    mantissa, _, exponent = near.partition("e")
    if float(near) == value:
        mantissa = f"{float(mantissa):g}"
    return f"{mantissa}e{int(exponent):+d}"


def percent(part: float) -> str:
    """Write a share as the page does; never all or nothing where it is not."""
    if part in (0, 1):
        return f"{100 * part:.0f} %"
    if not 0.001 <= part <= 0.999:
        return "< 0.1 %" if part < 0.5 else "> 99.9 %"
    return f"{100 * part:.1f} %"


def until(page: Page | Frame, condition: str, seconds: float = 10) -> None:
    """Wait for something to be so; Playwright's own way needs an eval, which the page forbids."""
    end = time.monotonic() + seconds
    while not page.evaluate(condition):
        assert time.monotonic() < end, condition
        time.sleep(0.02)


def settle(page: Page | Frame) -> None:
    """Wait until nothing is asked for any more."""
    until(page, "!document.querySelector('.waiting, [aria-busy=true], main progress')", 40)
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => setTimeout(done, 50)))")


def overflowing(page: Page) -> list[str]:
    """List what is wider than the screen, where that makes the page wider than it."""
    return list(page.evaluate(_OVERFLOW))


def faint(page: Page) -> list[str]:
    """List texts whose contrast is below what WCAG asks for at level AA."""
    return list(page.evaluate(_FAINT))


def unnamed(page: Page) -> list[str]:
    """List what can be used but says nothing to who does not see it."""
    return list(page.evaluate(_UNNAMED))


def shot(page: Page, file: Path, what: Any = None) -> int:
    """Keep a screenshot of a page, or of a part of it, with few colours; count its colours."""
    data = (what or page).screenshot(animations="disabled")
    image = Image.open(io.BytesIO(data)).convert("RGB")
    pixels = np.asarray(image)[::2, ::2].reshape(-1, 3)
    file.parent.mkdir(parents=True, exist_ok=True)
    image.quantize(192).save(file, optimize=True)
    return len(np.unique(pixels, axis=0))

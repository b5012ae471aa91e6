// The folded groups: pruning, times, the pictures of the views.
import { button, byId, duration, element, post, tell } from "./dom.js";

export const NAMES = {
  wait: "in the queue",
  preprocess: "images",
  vision: "vision tower",
  spatial: "3D tokens",
  scene: "scene",
  prefill: "reading",
  rank: "choosing tokens",
  decode: "writing",
  postprocess: "boxes",
  other: "other",
};
const BARS = 6; // answers whose times are shown

/** One that is unfolded is what is looked at. */
export function reveal(node) {
  if (node.open) byId("groups").scrollTop = node.offsetTop;
}
byId("groups").querySelectorAll("details").forEach((node) => {
  node.addEventListener("toggle", () => reveal(node));
});

export const group = (id) => ({ node: byId(id), output: byId(id).querySelector("summary span") });

export class Pruning {
  constructor() {
    this.output = group("pruning").output;
    this.refused = byId("pruning").querySelector(".refused");
    this.strategy = byId("strategy");
    this.ratio = byId("ratio");
    this.own = byId("own-ratio");
    this.isOwn = true;
    this.strategy.onchange = () => this._setStrategy();
    this.ratio.oninput = () => this._set(false);
    this.own.onclick = () => this._set(true);
  }

  /** Of the next question; 0: the robot's own. */
  get keepRatio() {
    return this.isOwn ? 0 : Number(this.ratio.value);
  }

  setStrategies(names) {
    this.strategy.replaceChildren(...names.map((name) => element("option", { textContent: name })));
  }

  setSettings({ strategy, ratio, error }) {
    if (strategy) {
      const names = [...this.strategy.options].map((each) => each.value);
      if (!names.includes(strategy)) {
        this.strategy.append(element("option", { textContent: strategy }));
      }
      this.strategy.value = strategy;
    }
    if (ratio && this.isOwn) this.ratio.value = ratio;
    this.robots = ratio;
    tell(this.refused, error ?? "");
    this._show();
  }

  setTokens(tokens) {
    const share = tokens.kept / tokens.total;
    const words = `${tokens.kept} of ${tokens.total}`;
    byId("tokens").textContent = `${words} tokens kept by ${tokens.strategy}`;
    byId("pruning").querySelector(".meter i").style.width = `${100 * share}%`;
    this.output.textContent = `${tokens.kept}/${tokens.total}`;
  }

  _set(isOwn) {
    this.isOwn = isOwn;
    if (isOwn && this.robots) this.ratio.value = this.robots;
    this._show();
  }

  _show() {
    const own = this.robots ? `, ${Number(this.robots.toFixed(2))}` : "";
    byId("ratio-text").textContent = this.isOwn ? `the robot's own${own}` : this.ratio.value;
    this.ratio.setAttribute("aria-valuetext", byId("ratio-text").textContent);
    this.own.disabled = this.isOwn;
  }

  async _setStrategy() {
    tell(this.refused, "");
    try {
      await post("/settings", { strategy: this.strategy.value });
    } catch (error) {
      tell(this.refused, error.message);
    }
  }
}

/** One stacked bar an answer, all on one scale: pruned and unpruned stand beside each other. */
export function showTimes(turns) {
  const timed = turns.filter((turn) => turn.total_ms != null && turn.times?.length).slice(-BARS);
  if (!timed.length) return;
  const longest = Math.max(...timed.map((turn) => turn.total_ms));
  const seen = new Set();
  const rows = timed.reverse().map((turn) => {
    const parts = turn.times.map(([name, ms]) => {
      seen.add(name);
      const part = element("i", { title: `${NAMES[name] ?? name} ${duration(ms)}` });
      part.dataset.stage = name;
      part.style.flexGrow = 100 * ms;
      return part;
    });
    const words = turn.times.map(([name, ms]) => `${NAMES[name] ?? name} ${duration(ms)}`);
    const bar = element("div", { className: "bar", role: "img", "aria-label": words.join(", ") });
    bar.append(...parts);
    bar.style.width = `${Math.max(2, (100 * turn.total_ms) / longest)}%`;
    const kept = turn.tokens ? `${turn.tokens.kept} of ${turn.tokens.total} tokens` : "no tokens";
    const head = element("div", { className: "row small" });
    head.append(
      element("span", { className: "ellipsis", textContent: turn.question }),
      element("span", { className: "soft", textContent: kept }),
      element("b", { textContent: duration(turn.total_ms) }),
    );
    return element("div", { className: "timed" }, head, bar);
  });
  byId("bars").replaceChildren(...rows);
  group("time").output.textContent = duration(timed[0].total_ms);
  const shown = Object.keys(NAMES).filter((name) => seen.has(name));
  const legend = shown.map((name) => {
    const mark = element("i");
    mark.dataset.stage = name;
    return element("li", {}, mark, NAMES[name]);
  });
  byId("legend").replaceChildren(...legend);
}

export function showPictures(views, onLook) {
  group("pictures").output.textContent = views.length ? String(views.length) : "";
  const shown = views.map((view) => {
    const made = button("", () => onLook(view), { "aria-label": `Look from view ${view.number}` });
    made.append(element("img", { src: `/views/${view.name}.jpg`, alt: "", loading: "lazy" }));
    return made;
  });
  byId("strip").replaceChildren(...shown);
}

// What is watched: standing questions, and what happened to them.
import { button, byId, element, post, tell } from "./dom.js";
import { group } from "./panels.js";

const text = byId("watch-text");
const refused = byId("watched").querySelector(".refused");

/** What an item shows beside its age. */
const told = ({ stands, ...rest }) => JSON.stringify(rest);

export class Watched {
  constructor() {
    Object.assign(this, group("watched"));
    this.watches = [];
    this.news = [];
    this.seen = 0; // when the newest of the news that were looked at came, s
    this.node.addEventListener("toggle", () => this._showNews());
    byId("watch-form").onsubmit = (event) => {
      event.preventDefault();
      this._begin(event.submitter);
    };
  }

  /** Each with the answer it has, or why it has none. */
  set(watches) {
    this.watches = watches;
    this.node.querySelector("[data-none]").hidden = watches.length > 0;
    // What has not changed stays, but for its age: a button may be pressed just now.
    const list = byId("watches");
    const before = new Map([...list.children].map((item) => [item.dataset.told, item]));
    const items = watches.map((watch) => before.get(told(watch)) ?? this._item(watch));
    if (items.length !== list.children.length || items.some((item, i) => item !== list.children[i])) {
      const focused = document.activeElement?.dataset.watch;
      list.replaceChildren(...items);
      if (focused) list.querySelector(`[data-watch="${CSS.escape(focused)}"]`)?.focus();
    }
    items.forEach((item, i) => {
      const { kind, stands } = watches[i];
      const age = stands ? `${kind}, stands for ${stands}` : kind;
      item.querySelector(".age").textContent = age;
    });
    this._showCount();
  }

  setNews(news) {
    this.news = news;
    this._showNews();
  }

  _item(watch) {
    const answer = element("p", { className: "words" });
    if (watch.error) {
      answer.classList.add("refused");
      answer.textContent = watch.error;
    } else {
      answer.textContent = watch.text || "not asked yet";
    }
    const what = element("p", { className: "words strong", textContent: watch.question });
    const age = element("p", { className: "soft small age" });
    const end = button("End", () => this._end(watch, end), {
      "aria-label": `End watching ${watch.question}`,
    });
    end.dataset.watch = watch.watch;
    const words = element("div", {}, what, answer, age);
    const item = element("li", { className: "row item" }, words, end);
    item.dataset.told = told(watch);
    return item;
  }

  _showNews() {
    if (this.node.open) this.seen = this.news.at(-1)?.at_s ?? 0;
    const lines = this.news.map(({ at_s, sentence }) => {
      const clock = new Date(1000 * at_s).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
      const said = element("span", { className: "words", textContent: sentence });
      return element("li", {}, element("time", { className: "soft", textContent: clock }), said);
    });
    byId("news").replaceChildren(...lines.reverse());
    this._showCount();
  }

  _showCount() {
    const unseen = this.news.filter((each) => each.at_s > this.seen).length;
    this.output.textContent = unseen ? `${unseen} new` : this.watches.length || "";
    this.output.classList.toggle("strong", unseen > 0);
  }

  async _begin(pressed) {
    if (!text.value.trim()) return text.focus();
    tell(refused, "");
    if (pressed) pressed.disabled = true; // a question is asked once before it stands
    try {
      await post("/watch", { kind: byId("watch-kind").value, text: text.value });
      text.value = "";
    } catch (error) {
      tell(refused, error.message);
    }
    if (pressed) pressed.disabled = false;
  }

  async _end({ watch }, pressed) {
    tell(refused, "");
    pressed.disabled = true;
    try {
      await post("/unwatch", { watch });
    } catch (error) {
      tell(refused, error.message);
      pressed.disabled = false;
    }
  }
}

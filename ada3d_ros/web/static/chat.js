// The conversation: a turn is a question with what became of it.
import { button, byId, duration, element, isOpen, nameOf } from "./dom.js";
import { NAMES } from "./panels.js";

const log = byId("chat");
const SENTENCES = { waiting: "…", running: "", stopped: "Stopped.", lost: "" };

export class Chat {
  /** onLook(box), onAsk(box): of a box that was clicked. page: this page's own name. */
  constructor({ page, onLook, onAsk }) {
    this.page = page;
    this.onLook = onLook;
    this.onAsk = onAsk;
    this.turns = new Map(); // name -> {turn, node, answer}
    this.changed = new Set(); // names of turns whose text has grown
    this.hints = byId("hints");
    this.atEnd = true; // what comes is followed, unless somebody has scrolled back
    log.addEventListener("scroll", () => {
      this.atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 60;
    });
    new ResizeObserver(() => this.follow()).observe(log);
  }

  /** All turns anew. */
  reset(turns) {
    this.turns.clear();
    log.replaceChildren(this.hints);
    turns.forEach((turn) => this.set(turn));
  }

  all() {
    return [...this.turns.values()].map((each) => each.turn);
  }

  mine() {
    return this.all().filter((turn) => isOpen(turn) && turn.page === this.page);
  }

  /** A turn as it is now. */
  set(turn) {
    this._keepingPlace(() => {
      const known = this.turns.get(turn.turn);
      const { node, answer } = this._draw(turn);
      if (known) known.node.replaceWith(node);
      else log.append(node);
      this.turns.set(turn.turn, { turn, node, answer });
      this.hints.hidden = true;
      const newest = this.newestWithBoxes();
      this.turns.forEach((each) => each.node.classList.toggle("newest", each.turn === newest));
    });
  }

  /** Whose boxes are green. */
  newestWithBoxes() {
    return this.all().filter((turn) => turn.boxes?.length).at(-1);
  }

  /** Shown with the next frame, however many come until then. */
  addText(name, delta) {
    const known = this.turns.get(name);
    if (!known) return;
    known.turn.state = "running";
    known.turn.text += delta;
    if (!this.changed.size) requestAnimationFrame(() => this._showText());
    this.changed.add(name);
  }

  _showText() {
    this._keepingPlace(() => {
      for (const name of this.changed) {
        const { turn, answer } = this.turns.get(name) ?? {};
        if (turn?.state === "running") answer.textContent = turn.text;
      }
      this.changed.clear();
    });
  }

  /** What could not even be asked. */
  refuse(question, sentence) {
    this._keepingPlace(() => {
      const answer = element("p", { className: "answer bad", textContent: sentence });
      log.append(element("article", {}, this._question({ question, kind: "ask" }), answer));
      this.hints.hidden = true;
    });
  }

  follow() {
    if (this.atEnd) log.scrollTop = log.scrollHeight;
  }

  _keepingPlace(change) {
    change();
    this.follow();
  }

  _question(turn) {
    const said = element("span", { className: "words", textContent: turn.question });
    const question = element("p", { className: "question" });
    if (turn.kind === "find") question.append(element("b", { textContent: "Find" }), " ");
    question.append(said);
    return question;
  }

  _draw(turn) {
    const node = element("article", { "aria-busy": String(isOpen(turn)) });
    node.dataset.state = turn.state;
    const failed = turn.state === "failed" || turn.state === "lost";
    const text = turn.text || (failed ? "" : (SENTENCES[turn.state] ?? ""));
    const answer = element("p", { className: "answer words", textContent: text });
    node.append(this._question(turn), answer);
    if (!text && !isOpen(turn)) answer.hidden = true;
    if (turn.state === "done" && !turn.text) {
      answer.hidden = false;
      answer.textContent = turn.boxes.length ? "Here." : "(no text)";
    }
    if (failed) {
      const sentence = turn.error || "It did not work, and nothing says why.";
      node.append(element("p", { className: "answer bad words", textContent: sentence }));
    }
    if (turn.state === "stopped" && turn.text) {
      node.append(element("p", { className: "soft", textContent: "Stopped." }));
    }
    if (turn.random) {
      const text = "This model was never trained: what it says means nothing.";
      node.append(element("p", { className: "answer bad", textContent: text }));
    }
    if (turn.boxes?.length) node.append(this._boxes(turn));
    const note = this._note(turn);
    if (note) node.append(note);
    return { node, answer };
  }

  _boxes(turn) {
    const list = element("ul", { className: "boxes" });
    for (const box of turn.boxes.slice(0, 12)) {
      const label = nameOf(box);
      const look = button(label, () => this.onLook(box), { "aria-label": `Look at ${label}` });
      const ask = button("Ask about it", () => this.onAsk(box));
      ask.setAttribute("aria-label", `Ask about ${label}`);
      list.append(element("li", {}, look, ask));
    }
    return list;
  }

  /** `kept 107 of 536 tokens, 17 ms`; the rest is folded. */
  _note(turn) {
    const short = [];
    if (turn.watch) short.push("asked again by itself");
    else if (turn.elsewhere) short.push("asked elsewhere");
    else if (turn.page !== this.page) short.push("asked on another page");
    if (turn.tokens) short.push(`kept ${turn.tokens.kept} of ${turn.tokens.total} tokens`);
    if (turn.total_ms != null && !isOpen(turn)) short.push(duration(turn.total_ms));
    if (!short.length) return null;

    const rest = (turn.times ?? []).map(([name, ms]) => `${NAMES[name] ?? name} ${duration(ms)}`);
    if (turn.tokens) rest.unshift(`pruning ${turn.tokens.strategy}`);
    if (turn.cold) rest.push(`without the cached scene: ${turn.cold}`);
    for (const box of turn.boxes ?? []) {
      const size = box.size.map((side) => side.toFixed(2)).join(" x ");
      const score = box.score == null ? "" : `, score ${box.score.toFixed(2)}`;
      rest.push(`${nameOf(box)} at [${box.center.map((v) => v.toFixed(2))}], ${size} m${score}`);
    }
    if (!rest.length) return element("p", { className: "note", textContent: short.join(", ") });
    const lines = rest.map((line) => element("li", { className: "words", textContent: line }));
    const note = element("details", { className: "note" });
    note.append(element("summary", { textContent: short.join(", ") }), element("ul", {}, ...lines));
    return note;
  }
}

// The saved scenes of the robot's store: what there is, save, load.
import { button, byId, element, getJson, post, tell } from "./dom.js";
import { group, reveal } from "./panels.js";

const name = byId("save-name");
const refused = byId("scenes").querySelector(".refused");
const REAL_S = 1e9; // stamps before 2001 are no dates: a simulation's clock

export class Scenes {
  constructor() {
    Object.assign(this, group("scenes"));
    this.node.addEventListener("toggle", async () => {
      if (!this.node.open) return;
      await this.update();
      reveal(this.node);
    });
    byId("save-form").onsubmit = (event) => {
      event.preventDefault();
      this._use("save", name.value.trim());
    };
  }

  /** The scene in view is another one. */
  setInUse(scene) {
    this.output.textContent = scene;
    if (this.node.open) this.update();
  }

  /** Ask the robot what it has. */
  async update() {
    const inUse = byId("in-use");
    try {
      this._show(await getJson("/scenes"));
    } catch (error) {
      byId("saved").replaceChildren();
      byId("save-form").hidden = true;
      inUse.textContent = error.message;
    }
  }

  _show({ scenes, in_use }) {
    byId("save-form").hidden = false;
    byId("in-use").textContent = in_use
      ? `In view is ${in_use}.`
      : "The scene in view has no name yet: saved under one, it can be loaded again.";
    name.placeholder = in_use || "kitchen";
    this.output.textContent = in_use;
    byId("saved").replaceChildren(...scenes.map((scene) => this._item(scene, in_use)));
  }

  _item(scene, inUse) {
    const facts = [
      `${scene.keyframes} views`,
      `${scene.objects} objects`,
      `${scene.megabytes.toFixed(1)} MB`,
    ];
    const words = element(
      "div",
      {},
      element("p", { className: "words strong", textContent: scene.name }),
      element("p", { className: "soft small", textContent: facts.join(", ") }),
    );
    if (scene.newest_s > REAL_S) {
      const seen = new Date(1000 * scene.newest_s);
      const when = seen.toLocaleString([], { dateStyle: "medium", timeStyle: "short" });
      words.append(element("p", { className: "soft small", textContent: `seen until ${when}` }));
    }
    if (scene.problem) {
      words.append(element("p", { className: "refused small words", textContent: scene.problem }));
    }
    const item = element("li", { className: "row item" }, words);
    if (scene.name === inUse) item.append(element("span", { className: "chip", textContent: "in view" }));
    else item.append(this._loader(scene.name));
    return item;
  }

  /** Pressed twice: everybody's view changes with it. */
  _loader(scene) {
    const made = button("Load", () => {
      if (made.classList.contains("main")) {
        this._use("load", scene);
      } else {
        made.classList.add("main");
        made.textContent = "For everybody?";
        tell(refused, "");
      }
    });
    made.setAttribute("aria-label", `Load ${scene}`);
    made.onblur = () => {
      made.classList.remove("main");
      made.textContent = "Load";
    };
    return made;
  }

  async _use(verb, scene) {
    tell(refused, "");
    const pressed = [...this.node.querySelectorAll("button")];
    pressed.forEach((each) => (each.disabled = true)); // the disk takes a while
    try {
      await post("/scenes", { verb, name: scene });
      if (verb === "save") name.value = "";
    } catch (error) {
      tell(refused, error.message);
    }
    pressed.forEach((each) => (each.disabled = false));
    await this.update();
  }
}

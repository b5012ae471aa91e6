// The scene in 3D: points, cameras, kept tokens, boxes with labels, the robot; drawn on change.
// Metres, z up; images' optical frames look along +z with y down.
import { OrbitControls, THREE } from "/three.js";
import { Box } from "./box.js";
import { button, nameOf } from "./dom.js";
import { COLORS, arrow, boundsOf, clear, disc, pyramid, vector } from "./shapes.js";

const POINT_M = 0.032; // size of a point of the cloud: voxels of 2 to 3 cm, without gaps
const TOKEN_M = 0.06;
const FIELD_DEG = 50; // of view, from top to bottom
const CEILING_M = 0.3; // of the highest points that is cut
const WALL_M = 0.14; // of the sides towards the viewer that is cut
const FLIGHT_MS = 300;
const FAR = 1e6;
const ZOOMS = { "+": 0.85, "=": 0.85, "-": 1.18 };
const TURNS = {
  // around the axis that points up, and down from it; radians
  ArrowLeft: [-0.15, 0],
  ArrowRight: [0.15, 0],
  ArrowUp: [0, -0.1],
  ArrowDown: [0, 0.1],
};
const still = matchMedia("(prefers-reduced-motion: reduce)");

// sRGB bytes to the linear values that three.js takes.
const LINEAR = Float32Array.from({ length: 256 }, (_, byte) => {
  const c = byte / 255;
  return c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
});

export class SceneView {
  /** onView(view or null): what the pointer is at; onBox(box, x, y): a box was chosen, px. */
  constructor(root, { onView, onBox }) {
    this.root = root;
    this.onView = onView;
    this.onBox = onBox;
    this.canvas = root.querySelector("canvas");
    this.labels = root.querySelector("#labels");
    this.renderer = new THREE.WebGLRenderer({ canvas: this.canvas, antialias: true, alpha: true });
    this.renderer.setPixelRatio(Math.min(devicePixelRatio, 2));
    this.scene = new THREE.Scene();
    this.camera = new THREE.PerspectiveCamera(FIELD_DEG, 1, 0.05, 200);
    this.camera.up.set(0, 0, 1);
    this.camera.position.set(-3, -3, 4);
    this.controls = new OrbitControls(this.camera, this.canvas);
    this.controls.addEventListener("change", () => this.draw());
    this.controls.maxPolarAngle = Math.PI * 0.62;
    this.controls.zoomToCursor = true;

    // Ceiling and the sides towards the viewer are cut by planes that move with the view.
    this.planes = Array.from({ length: 5 }, () => new THREE.Plane());
    this.wholeRoom = false;
    this.bounds = null; // of the points: low and high (x, y, z)
    this.cloud = new THREE.Points(
      new THREE.BufferGeometry(),
      this._points(POINT_M, { vertexColors: true }),
    );
    this.renderer.localClippingEnabled = true;
    this.cloud.frustumCulled = false;
    this.tokens = new THREE.Points(
      new THREE.BufferGeometry(),
      this._points(TOKEN_M, { color: COLORS.token, map: disc(), alphaTest: 0.5 }),
    );
    this.tokens.frustumCulled = false;
    this.views = new THREE.Group();
    this.boxes = new THREE.Group();
    this.robot = arrow();
    this.scene.add(this.cloud, this.tokens, this.views, this.boxes, this.robot);
    this.layers = { cloud: this.cloud, views: this.views, tokens: this.tokens };
    this.robotLabel = this._label("robot", "robot", null);

    this.ray = new THREE.Raycaster();
    this._listen();
    new ResizeObserver(() => this._resize()).observe(root);
    this._resize();
  }

  /** three.js takes a point's size for a field of view of 90 degrees. */
  _points(size, looks) {
    const field = Math.tan((FIELD_DEG * Math.PI) / 360);
    return new THREE.PointsMaterial({ size: size / field, clippingPlanes: this.planes, ...looks });
  }

  // -- what is shown

  /** data: float32 (N, 3) metres, then uint8 (N, 3) sRGB. */
  setCloud(data) {
    const count = Math.floor(data.byteLength / 15);
    const points = new Float32Array(data, 0, 3 * count);
    const bytes = new Uint8Array(data, 12 * count, 3 * count);
    const colors = Float32Array.from(bytes, (byte) => LINEAR[byte]);
    this.cloud.geometry.dispose();
    this.cloud.geometry = new THREE.BufferGeometry()
      .setAttribute("position", new THREE.BufferAttribute(points, 3))
      .setAttribute("color", new THREE.BufferAttribute(colors, 3));
    this.count = count;
    const isFirst = !this.bounds;
    this.bounds = count ? boundsOf(points) : null;
    if (isFirst && this.bounds) this.look("above", false);
    this._tell();
    this.draw();
  }

  setViews(views) {
    clear(this.views);
    for (const view of views) this.views.add(pyramid(view));
    this._tell();
    this.draw();
  }

  setKept(places) {
    this.tokens.geometry.dispose();
    const attribute = new THREE.BufferAttribute(places, 3);
    this.tokens.geometry = new THREE.BufferGeometry().setAttribute("position", attribute);
    this.draw();
  }

  /** Newest first; an older box at the same place is left out. */
  setBoxes(boxes) {
    clear(this.boxes);
    this.boxLabels?.forEach((label) => label.node.remove());
    this.boxLabels = [];
    const shown = [];
    for (const box of boxes) {
      const at = vector(box.center);
      if (shown.some((other) => at.distanceTo(vector(other.center)) < 0.1)) continue;
      shown.push(box);
      const made = new Box(box);
      this.boxes.add(made);
      const label = this._label(nameOf(box), box.isNew ? "box new" : "box", box);
      label.at.copy(at).z += box.size[2] / 2;
      this.boxLabels.push(label);
    }
    this._tell();
    this.draw();
  }

  setPose({ position, quaternion }) {
    this.robot.position.set(...position);
    this.robot.quaternion.set(...quaternion);
    this.robot.visible = true;
    this.robotLabel.at.set(...position).z += 0.22;
    this.robotLabel.isShown = true;
    this.pose = { position, quaternion };
    this.draw();
  }

  show(layer, isOn) {
    if (layer === "walls") this.wholeRoom = isOn;
    else this.layers[layer].visible = isOn;
    this.draw();
  }

  // -- where it is looked from

  look(from, fly = true) {
    if (from === "robot") {
      const newest = this.views.children.at(-1)?.userData.subject;
      if (this.pose ?? newest) this.lookFrom(this.pose ?? newest, fly);
      return;
    }
    const [low, high] = this.bounds ?? [new THREE.Vector3(-2, -2, 0), new THREE.Vector3(2, 2, 2)];
    const middle = low.clone().add(high).multiplyScalar(0.5);
    const target = new THREE.Vector3(middle.x, middle.y, low.z + 0.25 * (high.z - low.z));
    const away = this.camera.position.clone().sub(this.controls.target);
    const side = from === "fit" ? away.setZ(Math.max(away.z, 0.3 * away.length())) : null;
    const direction = (side ?? new THREE.Vector3(-0.45, -0.75, 1.05)).normalize();
    const far = this._distance(low, high, direction);
    this._fly(target.clone().addScaledVector(direction, far), target, fly);
  }

  /** From which distance, m, a box fills the view from a direction. */
  _distance(low, high, direction) {
    const middle = low.clone().add(high).multiplyScalar(0.5);
    const camera = this.camera.clone();
    camera.position.copy(middle).add(direction);
    camera.lookAt(middle);
    camera.updateMatrixWorld();
    const [right, up, back] = [0, 1, 2].map(
      (column) => new THREE.Vector3().setFromMatrixColumn(camera.matrixWorld, column),
    );
    const tall = Math.tan((this.camera.fov * Math.PI) / 360);
    let most = 0;
    for (let corner = 0; corner < 8; corner++) {
      const at = new THREE.Vector3(
        (corner & 1 ? high : low).x, (corner & 2 ? high : low).y, (corner & 4 ? high : low).z,
      ).sub(middle);
      const beside = Math.max(Math.abs(at.dot(right)) / this.camera.aspect, Math.abs(at.dot(up)));
      most = Math.max(most, beside / tall + at.dot(back));
    }
    return most * 1.02;
  }

  /** From where a camera was, along its axis. */
  lookFrom({ position, quaternion }, fly = true) {
    const turned = new THREE.Quaternion(...quaternion);
    const axis = new THREE.Vector3(0, 0, 1).applyQuaternion(turned);
    const from = vector(position);
    this._fly(from, from.clone().addScaledVector(axis, 1.5), fly);
  }

  lookAt({ center, size }) {
    const target = vector(center);
    const away = this.camera.position.clone().sub(target);
    away.z = Math.max(away.z, 0.5 * away.length());
    const far = Math.max(1.4, 2.6 * Math.hypot(...size));
    this._fly(target.clone().addScaledVector(away.normalize(), far), target);
  }

  _fly(position, target, fly = true) {
    const begin = performance.now();
    const [from, fromTarget] = [this.camera.position.clone(), this.controls.target.clone()];
    const length = fly && !still.matches ? FLIGHT_MS : 0;
    const step = (now) => {
      const share = length ? Math.min(1, Math.max(0, now - begin) / length) : 1;
      const eased = share * share * (3 - 2 * share);
      this.camera.position.lerpVectors(from, position, eased);
      this.controls.target.lerpVectors(fromTarget, target, eased);
      this.controls.update();
      this.draw();
      if (share < 1) requestAnimationFrame(step);
    };
    step(begin);
  }

  // -- drawing

  /** Once, before the next frame is shown. */
  draw() {
    if (this.isWaiting) return;
    this.isWaiting = true;
    requestAnimationFrame(() => {
      this.isWaiting = false;
      this._cut();
      const height = this.canvas.clientHeight || 1;
      const pixel = (2 * Math.tan((this.camera.fov * Math.PI) / 360)) / height; // m, at one metre
      this.boxes.children.forEach((box) => box.setPixel(pixel, this.camera));
      this.renderer.render(this.scene, this.camera);
      this._placeLabels();
    });
  }

  /** The planes behind which points are left out, as the view now is. */
  _cut() {
    this.planes.forEach((plane) => plane.setComponents(0, 0, -1, FAR));
    if (this.wholeRoom || !this.bounds) return;
    const [low, high] = this.bounds;
    const eye = this.camera.position;
    const top = high.z - CEILING_M;
    if (high.z - low.z > 1.6 && eye.z > top) this.planes[0].setComponents(0, 0, -1, top);
    if (eye.x < low.x) this.planes[1].setComponents(1, 0, 0, -(low.x + WALL_M));
    if (eye.x > high.x) this.planes[2].setComponents(-1, 0, 0, high.x - WALL_M);
    if (eye.y < low.y) this.planes[3].setComponents(0, 1, 0, -(low.y + WALL_M));
    if (eye.y > high.y) this.planes[4].setComponents(0, -1, 0, high.y - WALL_M);
  }

  _resize() {
    const { clientWidth, clientHeight } = this.root;
    if (!clientWidth || !clientHeight) return;
    this.renderer.setSize(clientWidth, clientHeight, false);
    this.camera.aspect = clientWidth / clientHeight;
    this.camera.updateProjectionMatrix();
    if (this.bounds && !this.wasMoved) this.look("above", false);
    this.draw();
  }

  _label(text, kind, box) {
    const node = button(text, () => {
      if (box) this.onBox(box, node.offsetLeft + node.offsetWidth / 2, node.offsetTop + 24);
      else this.look("robot");
    });
    node.className = `label ${kind}`;
    this.labels.append(node);
    return { node, at: new THREE.Vector3(), isShown: Boolean(box) };
  }

  _placeLabels() {
    const { clientWidth, clientHeight } = this.root;
    const placed = [];
    for (const { node, at, isShown } of [...(this.boxLabels ?? []), this.robotLabel]) {
      const seen = at.clone().project(this.camera);
      const inside = Math.abs(seen.x) < 1.05 && Math.abs(seen.y) < 1.05 && seen.z < 1;
      node.hidden = !isShown || !inside;
      if (node.hidden) continue;
      const half = Math.min(node.offsetWidth / 2 + 4, clientWidth / 2);
      const x = Math.min(Math.max(((seen.x + 1) / 2) * clientWidth, half), clientWidth - half);
      const height = node.offsetHeight + 2;
      let bottom = Math.max(((1 - seen.y) / 2) * clientHeight, 48);
      const isIn = (other) =>
        Math.abs(other.x - x) < other.half + half - 6 && Math.abs(other.bottom - bottom) < height;
      for (let other, tries = 0; tries < 8 && (other = placed.find(isIn)); tries++) {
        bottom = other.bottom - height; // one above the other; those that come late give way
      }
      placed.push({ x, half, bottom });
      node.style.left = `${x}px`;
      node.style.top = `${bottom}px`;
    }
  }

  /** What a person who does not see it is told. */
  _tell() {
    const boxes = this.boxes.children.length;
    const told = `${this.count ?? 0} points, ${this.views.children.length} views, ${boxes} boxes`;
    const keys = "Arrow keys turn it, + and - zoom.";
    this.canvas.setAttribute("aria-label", `The scene in 3D: ${told}. ${keys}`);
  }

  // -- pointer and keys

  _listen() {
    let down = null;
    this.controls.addEventListener("start", () => (this.wasMoved = true));
    this.canvas.addEventListener("pointermove", (event) => {
      if (!event.buttons) this._hover(this._at(event, this.views));
    });
    this.canvas.addEventListener("pointerleave", () => this._hover(null));
    this.canvas.addEventListener("pointerdown", (event) => (down = [event.clientX, event.clientY]));
    this.canvas.addEventListener("pointerup", (event) => {
      if (!down || Math.hypot(event.clientX - down[0], event.clientY - down[1]) > 6) return;
      const box = this._at(event, this.boxes);
      if (box) return void this.onBox(box, event.offsetX, event.offsetY);
      const view = this._at(event, this.views);
      if (view) this.lookFrom(view);
      this._hover(view);
    });
    this.canvas.addEventListener("keydown", (event) => this._onKey(event));
  }

  _hover(view) {
    if (view === this.hovered) return;
    this.hovered = view;
    this.canvas.style.cursor = view ? "pointer" : "";
    this.views.children.forEach((each) => each.setHovered(each.userData.subject === view));
    this.onView(view);
    this.draw();
  }

  /** What of a group the pointer is at; null for nothing. */
  _at(event, group) {
    if (!group.visible) return null;
    const at = new THREE.Vector2(
      (2 * event.offsetX) / this.canvas.clientWidth - 1,
      1 - (2 * event.offsetY) / this.canvas.clientHeight,
    );
    this.ray.setFromCamera(at, this.camera);
    const hit = this.ray.intersectObjects(group.children).find((each) => each.object.isMesh);
    let found = hit?.object ?? null;
    while (found && !found.userData.subject) found = found.parent;
    return found?.userData.subject ?? null;
  }

  _onKey(event) {
    if (!(event.key in TURNS) && !(event.key in ZOOMS)) return;
    event.preventDefault();
    const away = this.camera.position.clone().sub(this.controls.target);
    if (event.key in ZOOMS) away.multiplyScalar(ZOOMS[event.key]);
    else {
      const [around, down] = TURNS[event.key];
      away.applyAxisAngle(this.camera.up, around);
      const side = new THREE.Vector3().crossVectors(this.camera.up, away).normalize();
      const turned = away.clone().applyAxisAngle(side, down);
      if (turned.z > 0.1 * turned.length() && turned.z < 0.98 * turned.length()) away.copy(turned);
    }
    this.wasMoved = true;
    this.camera.position.copy(this.controls.target).add(away);
    this.controls.update();
    this.draw();
  }
}

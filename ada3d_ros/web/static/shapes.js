// What stands in the scene beside boxes: cameras, tokens, the robot; and where the points end.
import { THREE } from "/three.js";

const VIEW_M = 0.28; // how long a camera's pyramid is drawn
export const COLORS = { view: 0x3d7be0, token: 0xff9500, robot: 0xb4409a };

export const vector = (xyz) => new THREE.Vector3(...xyz);

/** Low and high corner without stray points: percentiles 0.5 and 99.5 of each axis. */
export function boundsOf(points) {
  const count = points.length / 3;
  const step = Math.max(1, Math.floor(count / 5000));
  const corners = [new THREE.Vector3(), new THREE.Vector3()];
  for (let axis = 0; axis < 3; axis++) {
    const values = [];
    for (let i = 0; i < count; i += step) values.push(points[3 * i + axis]);
    values.sort((a, b) => a - b);
    corners[0].setComponent(axis, values[Math.floor(0.005 * (values.length - 1))]);
    corners[1].setComponent(axis, values[Math.ceil(0.995 * (values.length - 1))]);
  }
  return corners;
}

export function clear(group) {
  group.traverse((each) => {
    each.geometry?.dispose();
    each.material?.dispose();
  });
  group.clear();
}

/** A round spot for a token. */
export function disc() {
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = 32;
  const pen = canvas.getContext("2d");
  pen.fillStyle = "#fff";
  pen.arc(16, 16, 15, 0, 2 * Math.PI);
  pen.fill();
  return new THREE.CanvasTexture(canvas);
}

/** A camera: the pyramid of what it sees, in its optical frame. */
export function pyramid(view) {
  const [left, top, right, bottom] = view.edges.map((each) => each * VIEW_M);
  const z = VIEW_M;
  const corners = [[left, top, z], [right, top, z], [right, bottom, z], [left, bottom, z]];
  const lines = corners.flatMap((corner, i) => [[0, 0, 0], corner, corner, corners[(i + 1) % 4]]);
  const faces = corners.flatMap((corner, i) => [[0, 0, 0], corner, corners[(i + 1) % 4]]);
  faces.push(corners[0], corners[1], corners[2], corners[0], corners[2], corners[3]);
  const shape = (list) =>
    new THREE.BufferGeometry().setFromPoints(list.map((xyz) => vector(xyz)));
  const made = new THREE.Group();
  const edges = new THREE.LineBasicMaterial({ color: COLORS.view });
  const fill = new THREE.MeshBasicMaterial({
    color: COLORS.view, transparent: true, opacity: 0.12, side: THREE.DoubleSide, depthWrite: false,
  });
  made.add(new THREE.LineSegments(shape(lines), edges), new THREE.Mesh(shape(faces), fill));
  made.position.set(...view.position);
  made.quaternion.set(...view.quaternion);
  made.userData.subject = view;
  made.setHovered = (isHovered) => (fill.opacity = isHovered ? 0.5 : 0.12);
  return made;
}

/** The robot: an arrow along its camera's axis. */
export function arrow() {
  const material = new THREE.MeshBasicMaterial({ color: COLORS.robot });
  const tip = new THREE.Mesh(new THREE.ConeGeometry(0.09, 0.26, 20).rotateX(Math.PI / 2), material);
  const ball = new THREE.Mesh(new THREE.SphereGeometry(0.07, 16, 12), material);
  tip.position.z = 0.16;
  const made = new THREE.Group();
  made.add(ball, tip);
  made.visible = false;
  return made;
}

// One grounded box: edges of a few pixels at any distance, and a light fill.
import { THREE } from "/three.js";

const NEW = 0x22b455;
const OLD = 0x8b95a3;
const EDGE_PX = 2.6;
const LEAST_M = 0.006;

export class Box extends THREE.Group {
  /** box: label, center and full size in metres, yaw in radians about z, isNew. */
  constructor(box) {
    super();
    const color = box.isNew ? NEW : OLD;
    const [x, y, z] = box.size;
    this.position.set(...box.center);
    this.rotation.z = box.yaw;
    this.userData.subject = box;
    const fill = new THREE.MeshBasicMaterial({
      color, transparent: true, opacity: box.isNew ? 0.16 : 0.06, depthWrite: false,
    });
    this.add(new THREE.Mesh(new THREE.BoxGeometry(x, y, z), fill));

    // Twelve edges: bars as long as a side, whose thickness is set before each drawing.
    const bar = new THREE.BoxGeometry(1, 1, 1);
    const material = new THREE.MeshBasicMaterial({ color });
    this.bars = [];
    box.size.forEach((length, axis) => {
      const others = [0, 1, 2].filter((each) => each !== axis);
      for (const signs of [[-1, -1], [-1, 1], [1, -1], [1, 1]]) {
        const made = new THREE.Mesh(bar, material);
        others.forEach((each, i) =>
          made.position.setComponent(each, (signs[i] * box.size[each]) / 2));
        made.userData = { axis, length };
        this.bars.push(made);
        this.add(made);
      }
    });
  }

  /** pixel: how many metres one is, at a distance of one metre. */
  setPixel(pixel, camera) {
    const thick = Math.max(LEAST_M, EDGE_PX * pixel * camera.position.distanceTo(this.position));
    for (const bar of this.bars) {
      const { axis, length } = bar.userData;
      bar.scale.setScalar(thick);
      bar.scale.setComponent(axis, length + thick);
    }
  }
}

import { h } from "./dom.js";
export const browsePart = () => ({ node: h("p") });

import { h } from "./dom.js";
export const reviewPart = () => ({ node: h("p") });

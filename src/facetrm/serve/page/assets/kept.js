// The review sheet's explanations, kept in this browser until they are cleared.

const PLACE = "facetrm.review";

export function reviewed() {
  try {
    const found = JSON.parse(localStorage.getItem(PLACE) ?? "[]");
    return Array.isArray(found) ? found : [];
  } catch {
    return [];
  }
}

export function keepReviewed(list) {
  localStorage.setItem(PLACE, JSON.stringify(list));
}

// The same pair under the same model and edit is one explanation.
export function addToReview(one) {
  const list = reviewed();
  const identity = (x) => JSON.stringify([x.before, x.prompt, x.a, x.b, x.model_hash, x.edit]);
  if (list.some((other) => identity(other) === identity(one))) return;
  const id = `review-${Date.now().toString(36)}-${list.length + 1}`;
  keepReviewed([...list, { ...one, id, agrees: null, better: null, off: [], note: "" }]);
}

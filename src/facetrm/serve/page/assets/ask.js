// Requests to this server. Every failure is a Refusal with a sentence for people.

let key = "";

export class Refusal extends Error {
  constructor(status, error) {
    super(error.message);
    this.status = status;
    this.code = error.code;
    this.fix = error.fix;
    this.row = error.row;
  }
}

export const useKey = (given) => (key = given.trim());

export async function ask(path, body, { signal } = {}) {
  const headers = key ? { Authorization: `Bearer ${key}` } : {};
  const settings = { headers, signal, cache: "no-store" };
  if (body !== undefined) {
    settings.method = "POST";
    settings.body = JSON.stringify(body);
    headers["Content-Type"] = "application/json";
  }
  let response;
  try {
    response = await fetch(path, settings);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refusal(0, {
      message: "the server does not answer",
      code: "gone",
      fix: "see whether 'facetrm serve' still runs, then try again",
    });
  }
  let value = null;
  try {
    value = await response.json();
  } catch {
    throw new Refusal(response.status, { message: `the server answered with status ${response.status} and no JSON` });
  }
  if (response.ok) return value;
  const error = value?.error ?? { message: `the server answered with status ${response.status}` };
  const wait = error.retry_after ? `try again in ${error.retry_after} s` : undefined;
  throw new Refusal(response.status, { ...error, fix: error.fix ?? wait });
}

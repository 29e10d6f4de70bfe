// Signing in with a code, and out; what goes wrong stands beside the button.

const byId = (id) => document.getElementById(id);

/** Sends the code that was typed; `signedIn` is called once it is taken. */
export async function signIn(signedIn) {
  const error = byId("sign-in-error");
  error.textContent = "";
  try {
    const response = await fetch("/api/session", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ code: byId("code").value }),
    });
    if (response.status === 204) {
      byId("code").value = "";
      await signedIn();
    } else if (response.status === 403) error.textContent = "This is no code of this study. Look at it again: letters and digits, hyphens do not matter.";
    else if (response.status === 429) error.textContent = "Too many wrong codes. Wait a minute, then try again.";
    else error.textContent = `The server says ${response.status}. Try again.`;
  } catch {
    error.textContent = "The server does not answer. Try again in a moment.";
  }
}

/** Signs a reader out and begins anew. Where that fails the session goes on, and the next person would be this reader. */
export async function signOut(reader) {
  const sent = fetch("/api/session", { method: "DELETE", signal: AbortSignal.timeout(8000) });
  const status = await sent.then((response) => response.status, () => 0);
  if ([204, 401].includes(status)) return location.reload();
  byId("sign-out-error").textContent = `${reader} is still signed in: the server ${status ? `says ${status}` : "does not answer"}. Try again.`;
}

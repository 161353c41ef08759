// The form of ft try --web: one question at a time; answers come as HTML that the server has escaped.
const form = document.getElementById("ask"), told = document.getElementById("told"), fault = document.getElementById("fault");
let isAsking = false;
const number = (name) => Number.isNaN(form.elements[name].valueAsNumber) ? null : form.elements[name].valueAsNumber;
form.addEventListener("submit", async (event) => {
  event.preventDefault();
  if (isAsking) return;
  isAsking = true;
  fault.textContent = "";
  told.textContent = "The models are at work …";
  const asked = {
    text: form.elements.text.value, tokens: number("tokens"), temperature: number("temperature"),
    seed: number("seed"), stop: form.elements.stop.value,
  };
  try {
    const reply = await fetch("/answers", {
      method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(asked),
    });
    const found = await reply.json();
    if (found.error) throw new Error(found.error);
    document.getElementById("answers").innerHTML = found.answers;
    document.getElementById("passages").innerHTML = found.passages;
    document.getElementById("map").hidden = !found.passages;
    for (const text of document.querySelectorAll("#passages .text")) watch(text);
    told.textContent = "The answers are below.";
  } catch (error) {
    told.textContent = "";
    fault.textContent = error instanceof TypeError ? "No answer: has ft try ended in the terminal?" : error.message;
  }
  isAsking = false;
});
form.elements.text.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
});


"use strict";

const DOCUMENT = "/api/v1/sqlite/openapi.json";
const TOKEN = "kvfs.token";
const SHOWN_CHARS = 200000;

const byId = (id) => document.getElementById(id);

let api = null;

/** An element. Attributes that are functions listen to the event of their name. */
function make(tag, attributes, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (typeof value === "function") element.addEventListener(name, value);
    else if (value !== false && value !== undefined) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children);
  return element;
}

// --- text ------------------------------------------------------------------------------------------------

/** Text with `code` and **bold** in it, as nodes. */
function inline(text) {
  return text.split(/(`[^`]+`|\*\*[^*]+\*\*)/).map((part) => {
    if (part.startsWith("`")) return make("code", null, part.slice(1, -1));
    return part.startsWith("**") ? make("strong", null, part.slice(2, -2)) : part;
  });
}

/** Paragraphs and tables: the Markdown that the document has. */
function blocks(markdown) {
  return markdown.trim().split(/\n\n+/).map((block) => {
    if (!block.startsWith("|")) return make("p", null, ...inline(block));
    const rows = block.split("\n").map((line) => line.split("|").slice(1, -1).map((cell) => cell.trim()));
    const row = (cells, tag) => make("tr", null, ...cells.map((cell) => make(tag, null, ...inline(cell))));
    const body = make("tbody", null, ...rows.slice(2).map((cells) => row(cells, "td")));
    return make("div", { class: "wide" }, make("table", null, make("thead", null, row(rows[0], "th")), body));
  });
}

/** What `{"$ref": …}` stands for, with what stands beside it. */
function resolved(part) {
  if (!part?.$ref) return part;
  const found = part.$ref.slice(2).split("/").reduce((under, name) => under[name], api);
  const { $ref, ...beside } = part;
  return { ...found, ...beside, ...(beside.properties && { properties: { ...found.properties, ...beside.properties } }) };
}

/** A JSON Schema as a type is written. */
function typeOf(schema, indent = "") {
  schema = resolved(schema);
  const inner = indent + "  ";
  if ("const" in schema) return JSON.stringify(schema.const);
  if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(" | ");
  if (schema.anyOf) return schema.anyOf.map((each) => typeOf(each, indent)).join(" | ");
  if (schema.type === "array") return `[${typeOf(schema.items ?? {}, indent)}, …]`;
  if (schema.properties) {
    const required = new Set(schema.required ?? []);
    const fields = Object.entries(schema.properties).map(
      ([name, each]) => `${inner}${name}${required.has(name) ? "" : "?"}: ${typeOf(each, inner)}\n`);
    return `{\n${fields.join("")}${indent}}`;
  }
  if (typeof schema.additionalProperties === "object") {
    return `{\n${inner}[name]: ${typeOf(schema.additionalProperties, inner)}\n${indent}}`;
  }
  return [schema.type ?? "any"].flat().join(" | ");
}

/** JSON text, indented; its tokens stay as they are, so that a number of any size is shown truly. */
function indented(json) {
  let depth = 0;
  const line = () => "\n" + "  ".repeat(depth);
  return json.replace(/"(?:[^"\\]|\\.)*"|\{\s*\}|\[\s*\]|[{}[\],:]|\s+/g, (token) => {
    if (token === "{" || token === "[") { depth += 1; return token + line(); }
    if (token === "}" || token === "]") { depth -= 1; return line() + token; }
    if (token === ",") return token + line();
    if (token === ":") return ": ";
    return token.trim();
  });
}

const asText = (value) => typeof value === "string" ? value : JSON.stringify(value, null, 2);

/** A word of a shell's command line. */
const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;

// --- what is asked ---------------------------------------------------------------------------------------

/** A key as a piece of a path, whole; one that would read as an action is escaped further. */
function keyPiece(key, template) {
  const piece = encodeURIComponent(key);
  if (!(template.replace("{key}", () => piece) in api.paths)) return piece;
  return "%" + key.charCodeAt(0).toString(16).toUpperCase().padStart(2, "0") + piece.slice(1);
}

/** What a form asks for: `{method, path, headers, body}`, without the token. */
function asked(form, method, template, operation) {
  const query = new URLSearchParams();
  const headers = {};
  let path = template;
  for (const param of operation.parameters ?? []) {
    const value = form.elements[`${param.in}:${param.name}`].value;
    if (value === "") continue;
    if (param.in === "path") path = path.replace(`{${param.name}}`, () => keyPiece(value, template));
    else if (param.in === "query") query.append(param.name, value);
    else headers[param.name] = value;
  }
  const body = form.elements.body?.value || null;
  const contentType = form.elements.content_type?.value;
  if (body !== null && contentType) headers["Content-Type"] = contentType;
  const search = query.toString();
  return { method, path: search ? `${path}?${search}` : path, headers, body };
}

/** The request as a command. The token is not in it: commands are kept, and shown to others. */
function curl(request) {
  const words = ["curl", request.method === "HEAD" ? "--head" : `-X ${request.method}`, quoted(location.origin + request.path)];
  if (token()) words.push('-H "Authorization: Bearer $KVFS_TOKEN"');
  for (const [name, value] of Object.entries(request.headers)) words.push("-H " + quoted(`${name}: ${value}`));
  if (request.body !== null) {
    // curl would declare a form's type; without any, the server looks at the value.
    if (!request.headers["Content-Type"]) words.push("-H 'Content-Type:'");
    words.push("--data-binary " + quoted(request.body));
  }
  return words.join(" \\\n  ");
}

const token = () => byId("token").value.trim();

function send(request, signal) {
  const headers = { ...request.headers };
  if (token()) headers.Authorization = `Bearer ${token()}`;
  // A Blob without a type: the browser declares none either.
  const body = request.body === null ? undefined : new Blob([request.body]);
  return fetch(request.path, { method: request.method, headers, body, signal, cache: "no-store" });
}

/** Shows an answer's body as it comes: a stream of events has no end. */
async function show(response, output) {
  const contentType = response.headers.get("Content-Type") ?? "";
  const decoder = new TextDecoder();
  let text = "";
  if (response.body) {
    const reader = response.body.getReader();
    for (let part = await reader.read(); !part.done; part = await reader.read()) {
      text += decoder.decode(part.value, { stream: true });
      output.textContent = text.slice(0, SHOWN_CHARS);
    }
  }
  if (text.length > SHOWN_CHARS) output.append("\n… (the rest is not shown)");
  else if (contentType.startsWith("application/json") && response.status !== 206) output.textContent = indented(text);
}

// --- the page --------------------------------------------------------------------------------------------

/** A control with its label and a note. */
function field(id, label, control, ...note) {
  control.id = id;
  control.setAttribute("aria-describedby", `${id}-note`);
  return make("div", { class: "field" },
    make("label", { for: id }, label), control, make("small", { id: `${id}-note` }, ...note));
}

function paramField(operation, param) {
  const name = `${param.in}:${param.name}`;
  const example = param.example === undefined ? "" : String(param.example);
  let control;
  if (param.schema.type === "boolean") {
    const options = ["", "true", "false"].map((value) => make("option", { value }, value));
    control = make("select", { name }, ...options);
  } else {
    control = make("input", {
      name, required: param.required, placeholder: example, autocomplete: "off", spellcheck: "false", autocapitalize: "off",
      inputmode: param.schema.type === "integer" && "numeric",
      value: param.required && example,
    });
  }
  const { minimum, maximum } = param.schema;
  const facts = [typeOf(param.schema)];
  if (param.in !== "query") facts.push(`in the ${param.in}`);
  if (minimum !== undefined) facts.push(`from ${minimum}`);
  if (maximum !== undefined) facts.push(`to ${maximum}`);
  if (![undefined, ""].includes(param.schema.default)) facts.push(`default ${param.schema.default}`);
  const label = param.name + (param.required ? " (required)" : "");
  return field(`${operation.operationId}-${name}`, label, control, ...inline(param.description), ` (${facts.join(", ")})`);
}

function bodyFields(operation) {
  const content = Object.entries(operation.requestBody.content);
  const [[mediaType, { schema }]] = content;
  const examples = content.flatMap(([, media]) => Object.values(media.examples ?? {}));
  const id = operation.operationId;
  const area = make("textarea", { name: "body", spellcheck: "false", autocapitalize: "off" });
  const fill = (number) => { area.value = number === "" ? "" : asText(examples[number].value); };
  const anything = content.length > 1;
  if (examples.length && (anything || operation.requestBody.required)) fill(0);
  const note = operation.requestBody.description + (operation.requestBody.required ? " (required)" : "");
  const made = [field(`${id}-body`, "Body", area, ...inline(note))];
  if (examples.length) {
    const options = examples.map((example, number) => make("option", { value: number }, example.summary));
    if (!area.value) options.unshift(make("option", { value: "" }, "none"));
    const choice = make("select", { change: (event) => { fill(event.target.value); } }, ...options);
    made.push(field(`${id}-example`, "Example", choice, "Fills in the body."));
  }
  const type = make("input", { name: "content_type", autocomplete: "off", value: anything ? "" : mediaType });
  made.push(field(`${id}-type`, "Content-Type", type, anything ? "If there is none, the server looks at the value." : ""));
  if (!anything) made.push(make("pre", null, typeOf(schema)));
  return made;
}

function requestForm(method, template, operation) {
  const command = make("pre", { "aria-label": "The same as a curl command" });
  const status = make("p", { role: "status" });
  const output = make("pre", { "aria-label": "Body of the answer", tabindex: "0", hidden: true });
  const headers = make("pre", { "aria-label": "Headers of the answer", hidden: true });
  const stop = make("button", { type: "button", hidden: true }, "Stop");
  const copy = make("button", { type: "button", click: () => copied(command, copy) }, "Copy curl");
  const request = () => asked(form, method, template, operation);
  const tell = () => { command.textContent = curl(request()); };

  async function submit(event) {
    event.preventDefault();
    if ([".", ".."].includes(form.elements["path:key"]?.value)) {
      status.textContent = "A browser cannot send this key. Use curl --path-as-is.";
      return;
    }
    const abort = new AbortController();
    stop.onclick = () => abort.abort();
    stop.hidden = false;
    status.textContent = "Waiting…";
    headers.hidden = output.hidden = true;
    output.textContent = "";
    const began = performance.now();
    try {
      const response = await send(request(), abort.signal);
      status.textContent = `${response.status} ${response.statusText}, after ${Math.round(performance.now() - began)} ms`;
      headers.textContent = [...response.headers].map(([name, value]) => `${name}: ${value}`).join("\n");
      headers.hidden = output.hidden = false;
      await show(response, output);
      output.hidden = !output.textContent;
    } catch (error) {
      if (error.name === "AbortError") status.textContent += " (stopped)";
      else status.textContent = `No answer: ${error.message}`;
    } finally {
      stop.hidden = true;
    }
  }

  const form = make("form", { submit, input: tell, change: tell },
    make("h3", null, "Request"),
    make("div", { class: "fields" }, ...(operation.parameters ?? []).map((param) => paramField(operation, param))),
    ...(operation.requestBody ? bodyFields(operation) : []),
    make("button", { type: "submit" }, "Send"), stop, copy, command, status, headers, output);
  byId("token").addEventListener("input", tell);
  tell();
  return form;
}

async function copied(command, button) {
  try {
    await navigator.clipboard.writeText(command.textContent);
    button.textContent = "Copied";
  } catch {
    // Browsers keep the clipboard from pages that came over plain HTTP, but for those of this machine.
    getSelection().selectAllChildren(command);
    button.textContent = "Press Ctrl+C";
  }
  setTimeout(() => { button.textContent = "Copy curl"; }, 2000);
}

function answerDetails(status, answer) {
  answer = resolved(answer);
  const parts = [];
  for (const [name, header] of Object.entries(answer.headers ?? {})) {
    parts.push(make("p", { class: "faint" }, make("code", null, name), " ", ...inline(resolved(header).description)));
  }
  for (const [mediaType, media] of Object.entries(answer.content ?? {})) {
    parts.push(make("p", { class: "faint" }, mediaType));
    if (media.schema) parts.push(make("pre", null, typeOf(media.schema)));
    for (const example of Object.values(media.examples ?? {}).map(resolved)) {
      parts.push(make("p", null, "Example: ", ...inline(example.summary)), make("pre", null, asText(example.value)));
    }
  }
  return make("details", null, make("summary", null, make("strong", null, status), " ", ...inline(answer.description)), ...parts);
}

function operationDetails(method, template, operation) {
  const details = make("details", { id: operation.operationId, class: "operation" },
    make("summary", null,
      make("span", { class: `method ${method}` }, method.toUpperCase()),
      make("span", { class: "path" }, template),
      make("span", { class: "what" }, ...inline(operation.summary))));
  details.addEventListener("toggle", () => {
    // What is folded is made when it is unfolded for the first time.
    if (details.open && details.childElementCount === 1) {
      details.append(requestForm(method.toUpperCase(), template, operation), make("h3", null, "Answers"),
        ...Object.entries(operation.responses).map(([status, answer]) => answerDetails(status, answer)));
    }
  });
  return details;
}

function render() {
  byId("version").textContent = api.info.version;
  byId("description").replaceChildren(...blocks(api.info.description));
  byId("about").hidden = false;
  const sections = new Map(api.tags.map((tag) => [tag.name, make("section", null, make("h2", null, tag.name))]));
  for (const [template, operations] of Object.entries(api.paths)) {
    for (const [method, operation] of Object.entries(operations)) {
      sections.get(operation.tags[0]).append(operationDetails(method, template, operation));
    }
  }
  byId("routes").replaceChildren(...sections.values());
  filter();
  unfold();
}

function filter() {
  const words = byId("filter").value.toLowerCase().split(/\s+/);
  for (const section of byId("routes").children) {
    const operations = [...section.querySelectorAll(".operation")];
    for (const operation of operations) {
      const text = (operation.id + " " + operation.firstChild.textContent).toLowerCase();
      operation.hidden = !words.every((word) => text.includes(word));
    }
    section.hidden = operations.every((operation) => operation.hidden);
  }
}

/** Unfolds what the address names. */
function unfold() {
  const named = byId(decodeURIComponent(location.hash.slice(1)));
  if (named instanceof HTMLDetailsElement) {
    named.open = true;
    named.scrollIntoView();
  }
}

async function load() {
  try {
    const response = await send({ method: "GET", path: DOCUMENT, headers: {}, body: null });
    if (response.status === 401) {
      byId("notice").textContent = token() ? "This token is not valid." : "This server wants a token: type it in above.";
      byId("token").focus();
      return;
    }
    if (!response.ok) throw new Error((await response.json()).message);
    api = await response.json();
    byId("notice").hidden = true;
    render();
  } catch (error) {
    byId("notice").textContent = `The API's document cannot be read: ${error.message}`;
  }
}

byId("token").value = sessionStorage.getItem(TOKEN) ?? "";
byId("token").addEventListener("input", () => sessionStorage.setItem(TOKEN, token()));
byId("token").addEventListener("change", () => { if (api === null) load(); });
byId("filter").addEventListener("input", filter);
addEventListener("hashchange", unfold);
load();

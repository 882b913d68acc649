// Shows the OpenAPI document of this server. All of it is put in as text.

const make = (name, text, className) => {
  const element = document.createElement(name);
  if (text !== undefined) element.textContent = text;
  if (className) element.className = className;
  return element;
};

const table = (heads, rows) => {
  const scroll = make("div", undefined, "scroll");
  const shown = make("table");
  const head = make("tr");
  for (const text of heads) {
    const cell = make("th", text);
    cell.scope = "col";
    head.append(cell);
  }
  const top = make("thead");
  top.append(head);
  const body = make("tbody");
  for (const row of rows) {
    const line = make("tr");
    for (const value of row) {
      const cell = make("td");
      cell.append(value ?? "");
      line.append(cell);
    }
    body.append(line);
  }
  shown.append(top, body);
  scroll.append(shown);
  return scroll;
};

// A schema in a few words; one that has a name leads to it.
const kind = (schema) => {
  if (!schema) return "";
  if (schema.$ref) {
    const name = schema.$ref.split("/").pop();
    const link = make("a", name);
    link.href = `#schema-${name}`;
    return link;
  }
  const either = schema.oneOf ?? schema.anyOf;
  if (either) {
    const all = make("span");
    either.forEach((part, i) => all.append(i ? " or " : "", kind(part)));
    return all;
  }
  const type = [schema.type ?? "any"].flat().join(" or ");
  if (schema.items) {
    const list = make("span", "list of ");
    list.append(kind(schema.items));
    return list;
  }
  return schema.enum ? `${type}: ${schema.enum.join(", ")}` : schema.format ? `${type} (${schema.format})` : type;
};

const bodies = (content) => {
  const all = make("span");
  Object.entries(content ?? {}).forEach(([media, body], i) => all.append(i ? ", " : "", `${media} `, kind(body.schema)));
  return all;
};

const operation = (path, method, what) => {
  const section = make("section");
  const title = make("h2");
  title.append(make("code", `${method.toUpperCase()} ${path}`));
  section.id = what.operationId ?? `${method}-${path}`;
  section.append(title);
  const words = [what.summary, what.description].filter(Boolean).join("\n\n");
  for (const part of words.split("\n\n")) section.append(make("p", part.replaceAll("\n", " ")));
  const inputs = (what.parameters ?? []).map((p) => [
    make("code", p.name), `${p.in}${p.required ? ", required" : ""}`, kind(p.schema), p.description,
  ]);
  if (inputs.length) section.append(table(["parameter", "in", "type", ""], inputs));
  if (what.requestBody) {
    const line = make("p", "Body: ");
    line.append(bodies(what.requestBody.content));
    section.append(line);
  }
  const answers = Object.entries(what.responses ?? {}).map(([status, answer]) => [
    make("code", status), answer.description, bodies(answer.content),
  ]);
  section.append(table(["status", "", "body"], answers));
  return section;
};

const schema = (name, what) => {
  const part = make("article");
  part.id = `schema-${name}`;
  part.append(make("h3", name));
  if (what.description) part.append(make("p", what.description));
  if (what.enum) part.append(make("p", what.enum.join(", ")));
  const required = new Set(what.required ?? []);
  const rows = Object.entries(what.properties ?? {}).map(([key, value]) => [
    make("code", key), kind(value), required.has(key) ? "always" : "", value.description,
  ]);
  if (rows.length) part.append(table(["field", "type", "", ""], rows));
  return part;
};

try {
  const answer = await fetch("/v1/openapi.json");
  if (!answer.ok) throw new Error((await answer.json()).detail ?? `status ${answer.status}`);
  const api = await answer.json();
  const operations = document.querySelector("#operations");
  for (const [path, methods] of Object.entries(api.paths)) {
    for (const [method, what] of Object.entries(methods)) operations.append(operation(path, method, what));
  }
  const schemas = document.querySelector("#schemas");
  for (const [name, what] of Object.entries(api.components?.schemas ?? {})) schemas.append(schema(name, what));
} catch (error) {
  document.querySelector("#error").textContent = error.message;
}

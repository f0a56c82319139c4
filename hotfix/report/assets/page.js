"use strict";
// Text from models and data sets reaches the page through textContent only.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const $ = (id) => document.getElementById(id);
  const BATCH = 20;

  const make = (tag, className, ...children) => {
    const node = document.createElement(tag);
    if (className) node.className = className;
    for (const child of children) node.append(child);
    return node;
  };
  const options = (select, pairs) => {
    select.replaceChildren(...pairs.map(([value, name]) => {
      const option = make("option", "", name);
      option.value = value;
      return option;
    }));
  };
  const unique = (values) => [...new Set(values)];
  const number = (value) => {
    if (value === null || value === undefined) return "–";
    const size = Math.abs(value);
    return size > 0 && size < 0.0005 ? value.toExponential(1) : size < 100 ? value.toFixed(3) : value.toFixed(0);
  };

  // Longest common subsequence of two lists of words: which words of each are in it.
  const words = (text) => text.match(/\w+|\s+|[^\w\s]/gu) || [];
  const common = (first, second) => {
    const rows = first.length + 1, columns = second.length + 1;
    const table = new Uint16Array(rows * columns);
    for (let i = first.length - 1; i >= 0; i--)
      for (let j = second.length - 1; j >= 0; j--)
        table[i * columns + j] = first[i] === second[j]
          ? table[(i + 1) * columns + j + 1] + 1
          : Math.max(table[(i + 1) * columns + j], table[i * columns + j + 1]);
    const inFirst = new Set(), inSecond = new Set();
    for (let i = 0, j = 0; i < first.length && j < second.length;) {
      if (first[i] === second[j]) { inFirst.add(i++); inSecond.add(j++); }
      else if (table[(i + 1) * columns + j] >= table[i * columns + j + 1]) i++;
      else j++;
    }
    return [inFirst, inSecond];
  };
  const marked = (parts) => {
    const node = document.createDocumentFragment();
    let tag = null, text = "";
    const flush = () => {
      if (text) node.append(tag ? make(tag, "", text) : text);
      text = "";
    };
    for (const [kind, word] of parts) {
      if (kind !== tag) { flush(); tag = kind; }
      text += word;
    }
    flush();
    return node;
  };
  // The old text with what goes struck out and what comes put in.
  const difference = (old, fresh) => {
    const a = words(old), b = words(fresh), [keptA, keptB] = common(a, b), parts = [];
    let i = 0, j = 0;
    while (i < a.length || j < b.length) {
      while (i < a.length && !keptA.has(i)) parts.push(["del", a[i++]]);
      while (j < b.length && !keptB.has(j)) parts.push(["ins", b[j++]]);
      if (i < a.length) { parts.push([null, a[i++]]); j++; }
    }
    return marked(parts);
  };
  // A completion with what it has only of the fix in green and only of the bug in red.
  const judged = (text, fixed, buggy) => {
    const own = words(text), ofFixed = words(fixed), ofBuggy = words(buggy);
    const likeFixed = common(own, ofFixed)[0], likeBuggy = common(own, ofBuggy)[0];
    return marked(own.map((word, i) => {
      if (likeFixed.has(i) && !ofBuggy.includes(word)) return ["ins", word];
      return [likeBuggy.has(i) && !ofFixed.includes(word) ? "del" : null, word];
    }));
  };

  const WORDS = {
    bug_fix: { g: "fixed", b: "buggy", n: "neither" },
    email_leak: { g: "no address", b: "leaks" },
    humaneval: { g: "passes", b: "fails" },
    specificity: { g: "unchanged", b: "changed" },
  };
  const said = (example, mark) =>
    ((example.s === "specificity" ? WORDS.specificity : WORDS[example.t]) || { g: "yes", b: "no", n: "neither" })[mark] || "";
  const text = (place) => data.texts[place];
  const PROMPT = 200;  // characters of a prompt that a run keeps
  const prompt = (words) => (words.length < PROMPT ? words : "…" + words);
  const written = (words) => words.trimEnd() || (words ? "⏎" : "(nothing)");
  const score = (record) => record.c.reduce((sum, [, mark]) => sum + (mark === "g" ? 1 : mark === "b" ? -1 : 0), 0);
  const percent = (value) => (value >= 0.0995 ? (100 * value).toFixed(0) : (100 * value).toPrecision(2)) + "%";

  const odds = (numbers) => {
    if (!numbers) return [];
    const found = [];
    if ("p_fixed" in numbers) found.push(`fix ${percent(numbers.p_fixed)}`);
    if ("p_buggy" in numbers) found.push(`bug ${percent(numbers.p_buggy)}`);
    if ("p_fixed_at_edit" in numbers && numbers.p_fixed_at_edit !== numbers.p_fixed)
      found.push(`at the edit: fix ${percent(numbers.p_fixed_at_edit)}, bug ${percent(numbers.p_buggy_at_edit)}`);
    if ("kl" in numbers) found.push(`KL ${number(numbers.kl)}`);
    return found.map((words) => make("span", "odds", words));
  };
  const side = (name, example, record, other) => {
    const node = make("div", "side", make("p", "label", make("b", "", name), ...odds(record.n)));
    for (const [place, mark] of record.c) {
      const body = make("pre");
      if ("f" in example && "b" in example) body.append(judged(written(text(place)), text(example.f), text(example.b)));
      else if (other && other.c.length && record.c.length === 1) body.append(difference(text(other.c[0][0]), text(place).trimEnd()));
      else body.append(written(text(place)));
      const line = make("div", `written ${mark}`, body);
      if (mark) line.append(make("span", "badge", said(example, mark)));
      node.append(line);
    }
    if (record.l)
      node.append(make("details", "", make("summary", "", "log-prob of each token, in nats"),
        tokens("fix", record.l.f || []), tokens("bug", record.l.b || [])));
    return node;
  };
  // A statement's tokens, each with its log-prob above it, the paler the less likely.
  const tokens = (name, told) => {
    const line = make("p", "tokens", make("span", "label", name + " "));
    for (const [place, value] of told) {
      const token = make("span", "token", make("small", "", value.toFixed(1)), make("code", "", text(place).replace(/\n/g, "⏎")));
      token.style.setProperty("--likely", `${(100 * Math.exp(value)).toFixed(0)}%`);
      line.append(token);
    }
    return line;
  };
  const card = (example, arm) => {
    const node = make("article", "card");
    node.append(make("h4", "", example.i, " ", make("span", "dim", example.g && !example.i.startsWith(example.g) ? `rule ${example.g}` : "")));
    if ("p" in example) node.append(make("p", "label", "prompt, its end"), make("pre", "", prompt(text(example.p))));
    if ("f" in example && "b" in example)
      node.append(make("p", "label", "the fix"), make("pre", "", difference(text(example.b), text(example.f))));
    const sides = make("div", "sides"), after = example.after[arm];
    if (example.before) sides.append(side("before", example, example.before, null));
    if (after) sides.append(side(data.arms.length > 1 ? `after: ${data.arms[arm]}` : "after", example, after, example.before));
    node.append(sides);
    return node;
  };

  const showExamples = () => {
    const part = $("f-part"), arm = $("f-arm"), group = $("f-group"), verdict = $("f-verdict"), search = $("f-text");
    const of = (example) => `${example.t}/${example.s}`;
    options(part, unique(data.examples.map(of)).map((name) => [name, name]));
    options(arm, data.arms.map((name, i) => [i, name]));
    $("l-arm").hidden = data.arms.length < 2;
    let found = [], shown = 0;
    const fillGroups = () => {
      const groups = unique(data.examples.filter((e) => of(e) === part.value).map((e) => e.g)).sort();
      options(group, [["", "any"], ...groups.map((name) => [name, name])]);
    };
    const passes = (example) => {
      if (of(example) !== part.value || (group.value && example.g !== group.value)) return false;
      const after = example.after[arm.value];
      if (!after) return false;
      const wanted = verdict.value;
      if (wanted === "won" || wanted === "lost") {
        if (!example.before) return false;
        const step = score(after) - score(example.before);
        if (wanted === "won" ? step <= 0 : step >= 0) return false;
      } else if (wanted && !after.c.some(([, mark]) => mark === wanted)) return false;
      const query = search.value.trim().toLowerCase();
      if (!query) return true;
      const places = ["p", "f", "b"].filter((key) => key in example).map((key) => example[key]);
      for (const record of [example.before, after]) if (record) places.push(...record.c.map(([place]) => place));
      return example.i.toLowerCase().includes(query) || places.some((place) => text(place).toLowerCase().includes(query));
    };
    const more = () => {
      $("cards").append(...found.slice(shown, shown + BATCH).map((example) => card(example, arm.value)));
      shown = Math.min(found.length, shown + BATCH);
      $("more").hidden = shown >= found.length;
      const kept = data.shown < data.all ? `; the page keeps ${data.shown} of ${data.all}, evenly chosen, all are in records.jsonl` : "";
      $("count").textContent = `${found.length} examples${kept}`;
    };
    const update = () => {
      found = data.examples.filter(passes);
      shown = 0;
      $("cards").replaceChildren();
      more();
    };
    part.addEventListener("change", () => { fillGroups(); update(); });
    for (const control of [arm, group, verdict]) control.addEventListener("change", update);
    search.addEventListener("input", update);
    $("filters").addEventListener("submit", (event) => event.preventDefault());
    $("more").addEventListener("click", more);
    fillGroups();
    update();
  };

  const showNumbers = () => {
    const select = $("run"), table = $("numbers");
    options(select, data.runs.map((run, i) => [i, `${run.arm}, seed ${run.seed}`]));
    const interval = (low, high) => (low === null || high === null ? "" : ` [${number(low)}, ${number(high)}]`);
    const update = () => {
      const run = data.runs[select.value];
      if (!run) return;
      const head = make("tr");
      for (const name of ["metric", "before", "after", "p", "n"]) head.append(make("th", "", name));
      const body = make("tbody");
      let place = "";
      for (const [task, part, metric, b, bl, bh, a, al, ah, p, test, n] of run.rows) {
        if (place !== `${task}, ${part}`) {
          place = `${task}, ${part}`;
          const title = make("th", "", place);
          title.colSpan = 5;
          body.append(make("tr", "head", title));
        }
        const sure = make("td", "", p === null ? "–" : p < 0.001 ? "< 0.001" : p.toFixed(3));
        if (test) sure.title = test;
        body.append(make("tr", "", make("td", "text", metric), make("td", "", number(b) + interval(bl, bh)),
          make("td", "", number(a) + interval(al, ah)), sure, make("td", "", n === null ? "–" : String(n))));
      }
      table.replaceChildren(make("thead", "", head), body);
      const seconds = Object.entries(run.seconds).map(([phase, value]) => `${phase} ${value.toFixed(1)}`);
      $("seconds").textContent = seconds.length ? `Seconds: ${seconds.join(", ")}.` : "";
    };
    select.addEventListener("change", update);
    update();
  };

  if ($("examples")) showExamples();
  showNumbers();
})();

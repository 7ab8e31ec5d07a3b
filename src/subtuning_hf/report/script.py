"""
The script of a report: it sorts tables, filters the journal, and unfolds what is folded for paper.

Everything can be read without it. It reads texts of cells only, and writes none.
"""

JAVASCRIPT = """
(function () {
  "use strict";
  var STEP = 500;
  var collator = new Intl.Collator("en", { numeric: true });
  var filter = function () {};
  function valueOf(row, column) {
    var words = row.cells[column].textContent.trim();
    var plain = words.replace(/,/g, "").replace(/^[+]/, "");
    if (words === "") { return null; }
    return /^-?(\\d|\\.\\d)/.test(plain) && row.cells[column].className === "n" ? parseFloat(plain) : words;
  }
  function compare(a, b) {
    if (a === null || b === null) { return a === b ? 0 : a === null ? 1 : -1; }
    if (typeof a === "number" && typeof b === "number") { return a - b; }
    return collator.compare(String(a), String(b));
  }
  function sort(table, head, column) {
    var down = head.getAttribute("aria-sort") === "ascending";
    var body = table.tBodies[0];
    var keyed = Array.prototype.map.call(body.rows, function (row, place) {
      return { row: row, place: place, value: valueOf(row, column) };
    });
    keyed.sort(function (one, other) {
      var order = compare(one.value, other.value);
      if (one.value !== null && other.value !== null && down) { order = -order; }
      return order || one.place - other.place;
    });
    var sorted = document.createDocumentFragment();
    keyed.forEach(function (each) { sorted.appendChild(each.row); });
    body.appendChild(sorted);
    Array.prototype.forEach.call(table.tHead.rows[0].cells, function (cell) { cell.removeAttribute("aria-sort"); });
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    if (table.id === "journal") { filter(); }
  }
  document.querySelectorAll("table").forEach(function (table) {
    if (table.tBodies[0].rows.length < 6 || !table.tHead.querySelector(".n")) { return; }
    Array.prototype.forEach.call(table.tHead.rows[0].cells, function (head, column) {
      var button = document.createElement("button");
      button.type = "button";
      while (head.firstChild) { button.appendChild(head.firstChild); }
      button.title = "Sort by this column";
      button.addEventListener("click", function () { sort(table, head, column); });
      head.appendChild(button);
    });
  });

  var journal = document.getElementById("journal");
  if (journal) {
    var controls = document.querySelector(".controls");
    var words = document.getElementById("text-filter");
    var block = document.getElementById("block-filter");
    var fold = document.getElementById("fold-filter");
    var count = document.getElementById("filter-count"), more = document.getElementById("more-rows");
    var texts = new Map(), most = STEP;
    var heads = Array.prototype.map.call(journal.tHead.rows[0].cells, function (head) {
      return head.textContent.trim();
    });
    var selections = heads.indexOf("selection"), folds = heads.indexOf("fold");
    var has = function (selection, number) {
      return selection === "all" || selection.split(", ").some(function (part) {
        var ends = part.split("\\u2013");
        return /^\\d+$/.test(ends[0]) && +ends[0] <= number && number <= +ends[ends.length - 1];
      });
    };
    var textOf = function (row) {
      if (!texts.has(row)) { texts.set(row, row.textContent.toLowerCase()); }
      return texts.get(row);
    };
    // Laying out thousands of rows takes seconds, so the first ones are shown, and more where they are asked for.
    filter = function () {
      var wanted = words.value.toLowerCase().split(/\\s+/).filter(Boolean), found = 0;
      var rows = journal.tBodies[0].rows;
      Array.prototype.forEach.call(rows, function (row) {
        var fits = (block.value === "" || has(row.cells[selections].textContent, +block.value)) &&
          (fold.value === "" || row.cells[folds].textContent === fold.value) &&
          wanted.every(function (word) { return textOf(row).indexOf(word) >= 0; });
        found += fits ? 1 : 0;
        var hide = !fits || found > most;
        if (row.hidden !== hide) { row.hidden = hide; }
      });
      var shown = Math.min(found, most);
      var rest = shown < found ? ", the first " + shown + " shown" : "";
      count.textContent = found + " of " + rows.length + " rows" + rest;
      more.hidden = shown === found;
    };
    [words, block, fold].forEach(function (input) {
      input.addEventListener("input", function () { most = STEP; filter(); });
    });
    more.addEventListener("click", function () { most += STEP; filter(); });
    controls.hidden = false;
    filter();
  }

  var folded = [];
  window.addEventListener("beforeprint", function () {
    folded = Array.prototype.filter.call(document.querySelectorAll("details"), function (one) { return !one.open; });
    folded.forEach(function (one) { one.open = true; });
  });
  window.addEventListener("afterprint", function () { folded.forEach(function (one) { one.open = false; }); });
})();
"""

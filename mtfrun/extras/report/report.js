"use strict";
// Draws a chart when it comes near the window, hides the curves of a group, follows the colour scheme.
(() => {
  const items = JSON.parse(document.getElementById("charts").textContent);
  const plots = [];
  const hidden = new Set();

  function paint(plot) {
    const style = getComputedStyle(document.documentElement);
    const text = style.getPropertyValue("--muted").trim();
    const line = style.getPropertyValue("--line").trim();
    for (const axis of [...plot.left, ...plot.below]) {
      axis.major_label_text_color = text;
      axis.axis_line_color = axis.major_tick_line_color = axis.minor_tick_line_color = line;
    }
    for (const grid of plot.center) grid.grid_line_color = line;
  }

  function showGroups(plot) {
    for (const {data_source, view} of plot.renderers) {
      const groups = Array.from(data_source.data.group);
      view.filter.booleans = groups.map((group) => !hidden.has(group));
    }
  }

  async function draw(element) {
    const item = items[Number(element.dataset.chart)];
    const views = await Bokeh.embed.embed_item(item, element.id);
    const plot = [...views].find((view) => view.model.id === item.root_id).model;
    // A finger that moves over a chart scrolls the page.
    if (matchMedia("(pointer: coarse)").matches) plot.toolbar.active_drag = null;
    plots.push(plot);
    paint(plot);
    showGroups(plot);
  }

  const observer = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      observer.unobserve(entry.target);
      draw(entry.target);
    }
  }, {rootMargin: "400px"});
  document.querySelectorAll("[data-chart]").forEach((element) => observer.observe(element));

  document.querySelectorAll("[data-group]").forEach((box) => {
    box.addEventListener("change", () => {
      const group = Number(box.dataset.group);
      if (box.checked) hidden.delete(group);
      else hidden.add(group);
      plots.forEach(showGroups);
    });
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => plots.forEach(paint));
})();

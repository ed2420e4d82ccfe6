// Light or dark, as the reader chooses.
"use strict";

function chooseTheme() {
  const select = document.getElementById("theme");
  select.onchange = () => {
    document.documentElement.style.colorScheme = select.value;
  };
}

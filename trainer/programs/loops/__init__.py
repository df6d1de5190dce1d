"""Programs as compiled loops: layouts, fusion, memory, C text."""

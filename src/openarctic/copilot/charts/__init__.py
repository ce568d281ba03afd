"""Charts as validated Vega-Lite specs of a closed set, and their drawings: terminal, SVG, PNG. No code is ever made or run."""

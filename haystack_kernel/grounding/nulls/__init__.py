"""The self-contained and the competitive null of a component (Goeman & Buehlmann 2007)."""

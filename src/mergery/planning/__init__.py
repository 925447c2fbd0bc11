"""From a recipe to a plan, from headers alone: names become nodes (`views`, `graph`), and nodes files (`layout`, `plan`)."""

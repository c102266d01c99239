"""SkimRT's build pipeline: a model that learned to skip tokens goes in, engines that really skip them come out."""

"""The benchmarks' data as they lie in their usual folders: pictures with labels, masks, segments or boxes."""

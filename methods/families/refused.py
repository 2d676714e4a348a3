"""Video transformers of diffusers that cannot be steered, with the reason that the user is told."""

LINEAR = "its self-attention is linear, so there are no logits; only a softmax can be scaled, biased or recorded"

REFUSED = {
    "SanaVideoTransformer3DModel": LINEAR,
    "SanaWMTransformer3DModel": LINEAR,
    "Cosmos3OmniTransformer": "its attention has grouped queries and packs causal text with video in one sequence",
    "WanAnimateTransformer3DModel": "a pose drives its motion, and its reference is a character, not a first frame",
    "AnyFlowFARTransformer3DModel": "its attention has a sparse block mask and a cache of keys",
}

"""Video transformers of diffusers that cannot be steered, with the reason that the user is told."""

LINEAR = "its self-attention is linear, so there are no logits; only a softmax can be scaled, biased or recorded"
TEXT_ALONE = "it makes videos from text alone, and only families that can be given an image are described here"
DESCRIBE = "nobody has described the order of its tokens yet; docs/new-families.md says how"

REFUSED = {
    "AllegroTransformer3DModel": TEXT_ALONE,
    "AnyFlowFARTransformer3DModel": "its attention has a sparse block mask and a cache of keys",
    "AnyFlowTransformer3DModel": TEXT_ALONE,
    "ConsisIDTransformer3DModel": "its reference is a face, whose features enter beside the attention, and no first frame",
    "Cosmos3OmniTransformer": "its attention has grouped queries and packs causal text with video in one sequence",
    "EasyAnimateTransformer3DModel": DESCRIBE,
    "JoyImageEditPlusTransformer3DModel": "it edits images and makes no video",
    "JoyImageEditTransformer3DModel": "it edits images and makes no video",
    "Kandinsky6SRTransformer3DModel": "its attention has a sparse block mask (NABLA), and it enlarges a video that is there",
    "Kandinsky6Transformer3DModel": DESCRIBE,
    "LatteTransformer3DModel": "its blocks attend within a frame and along time in turn, so no sequence holds the video",
    "MiniMaxH3Transformer3DModel": DESCRIBE,
    "MochiTransformer3DModel": TEXT_ALONE,
    "MotifVideoTransformer3DModel": DESCRIBE,
    "SanaVideoTransformer3DModel": LINEAR,
    "SanaWMLTX2RefinerTransformer3DModel": "its self-attention is a sliding window over a cache of keys",
    "SanaWMTransformer3DModel": LINEAR,
    "WanAnimate2Transformer3DModel": "its attention has a block mask for flex attention and a cache of keys",
    "WanAnimateTransformer3DModel": "a pose drives its motion, and its reference is a character, not a first frame",
}

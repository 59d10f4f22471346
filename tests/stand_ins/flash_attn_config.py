"""What a build of FlashAttention-3 says was left out."""

CONFIG = {
    "build_flags": {
        "FLASHATTENTION_DISABLE_FP16": False,
        "FLASHATTENTION_DISABLE_LOCAL": False,
        "FLASHATTENTION_DISABLE_SOFTCAP": True,
        "FLASHATTENTION_DISABLE_HDIM256": True,
        "FLASH_ATTENTION_DISABLE_HDIMDIFF64": True,
    }
}

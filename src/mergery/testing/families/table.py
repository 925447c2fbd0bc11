"""One row a family: the config of a tiny model and the class that loads it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Config = Mapping[str, Any]


@dataclass(frozen=True)
class Family:
    """A family of models. `kind` is its model type; `auto` the class of transformers that loads it.

    `auto` is empty for families whose code stands only on the hub: they are made, and merged, as files.
    """

    name: str
    covers: str  # models that people have
    kind: str
    config: Config = field(default_factory=dict)
    auto: str = "AutoModelForCausalLM"
    inputs: str = "text"  # what a forward pass takes: text, image, encoder-decoder
    trap: bool = False  # in the fast subset of the tests


B: Config = {
    "vocab_size": 128, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
IDS: Config = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
WIDTH: Config = {"vocab_size": 128, "hidden_size": 32, "num_hidden_layers": 2, **IDS}
MLA: Config = {
    **B, "num_key_value_heads": 4, "moe_intermediate_size": 16, "n_routed_experts": 4, "n_shared_experts": 1,
    "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1, "kv_lora_rank": 8,
    "q_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 8, "v_head_dim": 8,
}  # fmt: skip
MOE: Config = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
LLAMA31: Config = {
    "rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}  # fmt: skip
LLAMA4: Config = {
    **B, "head_dim": 8, "intermediate_size": 32, "intermediate_size_mlp": 64, "num_local_experts": 4,
    "num_experts_per_tok": 1, "interleave_moe_layer_step": 2, "attention_chunk_size": 32,
}  # fmt: skip
FALCON: Config = {**WIDTH, "num_attention_heads": 4, "bias": False}
MAMBA: Config = {**WIDTH, "state_size": 8, "expand": 2, "conv_kernel": 4}
CLIP: Config = {
    "model_type": "clip_vision_model", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
    "num_attention_heads": 4, "image_size": 16, "patch_size": 8, "projection_dim": 32,
}  # fmt: skip
PIXTRAL: Config = {
    "model_type": "pixtral", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
    "num_attention_heads": 4, "head_dim": 8, "image_size": 16, "patch_size": 4,
}  # fmt: skip
QWEN_VISION: Config = {
    "depth": 2, "num_heads": 4, "patch_size": 4, "spatial_merge_size": 2, "temporal_patch_size": 2, "in_channels": 3,
}  # fmt: skip
MROPE: Config = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]}
QWEN_IDS: Config = {
    "image_token_id": 5, "video_token_id": 6, "vision_start_token_id": 7, "vision_end_token_id": 8,
}  # fmt: skip
IMAGE = "AutoModelForImageTextToText"
MASKED = "AutoModelForMaskedLM"

FAMILIES: tuple[Family, ...] = (
    Family("Llama", "Llama 2, 3; DeepSeek Coder V1; HyperCLOVA X SEED Text", "llama", B, trap=True),
    Family("SOLAR", "SOLAR 10.7B", "llama", {**B, "num_hidden_layers": 3, "rms_norm_eps": 1e-5}),
    Family("Kanana", "Kanana 1.5", "llama", {
        **B, "head_dim": 8, "rope_parameters": {"rope_type": "default", "rope_theta": 8e6},
    }),
    Family("Llama 3.1", "Llama 3.1, 3.3", "llama", {**B, "rope_parameters": LLAMA31}),
    Family("Llama 3.2", "Llama 3.2 1B, 3B (tied)", "llama", {
        **B, "rope_parameters": LLAMA31, "tie_word_embeddings": True,
    }, trap=True),
    Family("Llama 3.2 Vision", "Llama 3.2 Vision", "mllama", {
        "text_config": {**B, "num_hidden_layers": 3, "cross_attention_layers": [1]},
        "vision_config": {
            "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_global_layers": 1, "attention_heads": 4,
            "image_size": 16, "patch_size": 8, "vision_output_dim": 96, "intermediate_layers_indices": [0, 1],
            "supported_aspect_ratios": [[1, 1], [1, 2], [2, 1]], "max_num_tiles": 2,
        },
    }, IMAGE, trap=True),
    Family("Llama 4 text", "Llama 4 (language model)", "llama4_text", LLAMA4, trap=True),
    Family("Llama 4", "Llama 4 Scout, Maverick", "llama4", {
        "text_config": LLAMA4,
        "vision_config": {
            "hidden_size": 32, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 16,
            "patch_size": 4, "vision_output_dim": 32, "projector_input_dim": 32, "projector_output_dim": 32,
            "pixel_shuffle_ratio": 0.5,
        },
    }, IMAGE),
    Family("Mistral", "Mistral 7B, Nemo", "mistral", {**B, "sliding_window": 16, "head_dim": 8}),
    Family("Mixtral", "Mixtral 8x7B, 8x22B", "mixtral", {
        **B, "num_local_experts": 4, "num_experts_per_tok": 2,
    }, trap=True),
    Family("Pixtral", "Pixtral 12B", "llava", {
        "text_config": {"model_type": "mistral", **B, "head_dim": 8}, "vision_config": PIXTRAL, "image_token_index": 5,
        "vision_feature_layer": -1, "vision_feature_select_strategy": "full",
    }, IMAGE),
    Family("Mistral 3", "Mistral Small 3.1, 3.2", "mistral3", {
        "text_config": {"model_type": "mistral", **B, "head_dim": 8}, "vision_config": PIXTRAL, "image_token_index": 5,
        "spatial_merge_size": 2, "tie_word_embeddings": False,
    }, IMAGE),
    Family("Gemma", "Gemma 1", "gemma", {**B, "head_dim": 8}, trap=True),
    Family("Gemma 2", "Gemma 2", "gemma2", {**B, "head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 16}),
    Family("Gemma 3 text", "Gemma 3 1B, 270M", "gemma3_text", {
        **B, "head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 16,
    }),
    Family("Gemma 3", "Gemma 3 4B, 12B, 27B (vision)", "gemma3", {
        "text_config": {**B, "head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 16},
        "vision_config": {
            "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 16,
            "patch_size": 4,
        },
        "mm_tokens_per_image": 4, "boi_token_index": 6, "eoi_token_index": 7, "image_token_index": 5,
    }, IMAGE),
    Family("Falcon", "Falcon 7B", "falcon", {**FALCON, "multi_query": True, "parallel_attn": True}, trap=True),
    Family("Falcon RW", "Falcon RW 1B", "falcon", {
        **FALCON, "multi_query": False, "parallel_attn": False, "alibi": True, "bias": True,
    }),
    Family("Falcon 2", "Falcon 40B, 180B, 2 11B", "falcon", {
        **FALCON, "new_decoder_architecture": True, "num_kv_heads": 2, "ffn_hidden_size": 64,
    }, trap=True),
    Family("Falcon 3", "Falcon 3", "llama", {**B, "head_dim": 8}),
    Family("Falcon Mamba", "Falcon Mamba 7B", "falcon_mamba", {**MAMBA, "time_step_rank": 4}),
    Family("Falcon H1", "Falcon H1", "falcon_h1", {
        **B, "mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 8, "mamba_n_groups": 1, "mamba_d_state": 8,
        "mamba_d_conv": 4, "mamba_expand": 1, "mamba_chunk_size": 16,
    }),
    Family("Mamba", "Mamba", "mamba", {**MAMBA, "time_step_rank": 4}, trap=True),
    Family("Mamba 2", "Mamba 2, Codestral Mamba", "mamba2", {
        **MAMBA, "num_heads": 8, "head_dim": 8, "n_groups": 1, "chunk_size": 16,
    }),
    Family("RWKV 4", "RWKV 4", "rwkv", {
        **WIDTH, "context_length": 64, "attention_hidden_size": 32, "intermediate_size": 64,
    }, trap=True),
    Family("xLSTM", "xLSTM 7B", "xlstm", {
        **WIDTH, "hidden_size": 64, "num_heads": 4, "qk_dim_factor": 1.0, "v_dim_factor": 1.0,
        "ffn_round_up_to_multiple_of": 8,
    }),
    Family("Qwen 2", "Qwen 1.5, 2, 2.5", "qwen2", B),
    Family("Qwen 2 tied", "Qwen 2, 2.5 up to 3B", "qwen2", {**B, "tie_word_embeddings": True}),
    Family("Qwen 2 MoE", "Qwen 1.5 MoE, Qwen 2 57B A14B", "qwen2_moe", {
        **B, **MOE, "shared_expert_intermediate_size": 32, "decoder_sparse_step": 1,
    }, trap=True),
    Family("Qwen 3", "Qwen 3", "qwen3", {**B, "head_dim": 8}),
    Family("Qwen 3 MoE", "Qwen 3 30B A3B, 235B A22B", "qwen3_moe", {**B, **MOE, "head_dim": 8}),
    Family("Qwen 2 VL", "Qwen 2 VL", "qwen2_vl", {
        "text_config": {**B, "rope_parameters": MROPE},
        "vision_config": {**QWEN_VISION, "embed_dim": 32, "hidden_size": 32, "mlp_ratio": 2}, **QWEN_IDS,
    }, IMAGE, trap=True),
    Family("Qwen 2.5 VL", "Qwen 2.5 VL", "qwen2_5_vl", {
        "text_config": {**B, "rope_parameters": MROPE},
        "vision_config": {
            **QWEN_VISION, "hidden_size": 32, "intermediate_size": 64, "out_hidden_size": 32, "window_size": 32,
            "fullatt_block_indexes": [1],
        }, **QWEN_IDS,
    }, IMAGE),
    Family("Qwen 3 VL", "Qwen 3 VL", "qwen3_vl", {
        "text_config": {**B, "head_dim": 8, "rope_parameters": MROPE},
        "vision_config": {
            **QWEN_VISION, "hidden_size": 32, "intermediate_size": 64, "out_hidden_size": 32, "num_position_embeddings": 16,
            "deepstack_visual_indexes": [0],
        }, **QWEN_IDS,
    }, IMAGE),
    Family("DeepSeek V2", "DeepSeek V2, Coder V2", "deepseek_v2", {**MLA, "topk_method": "greedy"}, trap=True),
    Family("DeepSeek V2 Lite", "DeepSeek V2 Lite, Coder V2 Lite", "deepseek_v2", {
        **MLA, "q_lora_rank": None, "topk_method": "greedy",
    }),
    Family("DeepSeek V3", "DeepSeek V3, R1", "deepseek_v3", MLA, trap=True),
    Family("GPT-2", "GPT-2", "gpt2", {
        "vocab_size": 128, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, **IDS,
    }, trap=True),
    Family("GPT-Neo", "GPT-Neo", "gpt_neo", {
        "vocab_size": 128, "hidden_size": 32, "num_layers": 2, "attention_types": [[["global", "local"], 1]], "num_heads": 4,
        "window_size": 16, "max_position_embeddings": 64, **IDS,
    }),
    Family("GPT-J", "GPT-J 6B", "gptj", {
        "vocab_size": 128, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "rotary_dim": 4,
        "tie_word_embeddings": False, **IDS,
    }),
    Family("GPT-NeoX", "GPT-NeoX 20B, Pythia", "gpt_neox", {
        **WIDTH, "intermediate_size": 64, "num_attention_heads": 4, "max_position_embeddings": 64,
    }, trap=True),
    Family("Phi", "Phi 1, 1.5, 2", "phi", B),
    Family("Phi 3", "Phi 3, 3.5 mini, 4", "phi3", B, trap=True),
    Family("Phi 3.5 MoE", "Phi 3.5 MoE", "phimoe", {**B, "num_local_experts": 4, "num_experts_per_tok": 2}),
    Family("Phi 4 multimodal", "Phi 4 multimodal", "phi4_multimodal", {
        **B, "vision_config": {
            "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 56,
            "patch_size": 14, "crop_size": 56, "image_token_id": 5,
        },
        "audio_config": {
            "hidden_size": 32, "intermediate_size": 64, "num_blocks": 2, "num_attention_heads": 4, "ext_pw_out_channel": 32,
            "depthwise_seperable_out_channel": 32, "nemo_conv_channels": 32, "input_size": 16, "chunk_size": -1,
            "time_reduction": 8, "audio_token_id": 6,
        },
    }),
    Family("EXAONE 4", "EXAONE 4", "exaone4", {
        **B, "head_dim": 8, "sliding_window": 16, "layer_types": ["sliding_attention", "full_attention"],
    }),
    Family("HyperCLOVA X", "HyperCLOVA X Think, 8B", "hyperclovax", B),
    Family("SOLAR Open", "SOLAR Open", "solar_open", {
        **B, "head_dim": 8, "moe_intermediate_size": 16, "n_routed_experts": 4, "n_shared_experts": 1,
        "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1,
    }),
    Family("OLMo 2", "OLMo 2", "olmo2", B),
    Family("OLMoE", "OLMoE", "olmoe", {**B, "num_experts": 4, "num_experts_per_tok": 2}),
    Family("Granite", "Granite 3", "granite", B),
    Family("Granite MoE", "Granite 3 MoE", "granitemoe", {**B, "num_local_experts": 4, "num_experts_per_tok": 2}),
    Family("Cohere 2", "Command R7B, A; Aya Expanse", "cohere2", {**B, "sliding_window": 16}),
    Family("GPT-OSS", "GPT-OSS (bfloat16)", "gpt_oss", {
        **B, "head_dim": 8, "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 16,
    }, trap=True),
    Family("LLaVA", "LLaVA 1.5", "llava", {
        "text_config": {"model_type": "llama", **B}, "vision_config": CLIP, "image_token_index": 5,
    }, IMAGE, trap=True),
    Family("LLaVA-NeXT", "LLaVA 1.6, Falcon 2 11B VLM", "llava_next", {
        "text_config": {"model_type": "mistral", **B}, "vision_config": CLIP, "image_token_index": 5,
        "image_grid_pinpoints": [[16, 16]],
    }, IMAGE),
    Family("IDEFICS 2", "IDEFICS 2", "idefics2", {
        "text_config": {"model_type": "mistral", **B, "head_dim": 8},
        "vision_config": {
            "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 16,
            "patch_size": 4,
        },
        "perceiver_config": {
            "hidden_size": 32, "resampler_n_latents": 4, "resampler_depth": 1, "resampler_n_heads": 4,
            "resampler_head_dim": 8, "num_key_value_heads": 2,
        },
        "image_token_id": 5,
    }, IMAGE),
    Family("Florence 2", "Florence 2", "florence2", {
        "text_config": {
            "model_type": "bart", "vocab_size": 128, "d_model": 32, "encoder_layers": 2, "decoder_layers": 2,
            "encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64,
            "max_position_embeddings": 64, **IDS, "forced_eos_token_id": 2, "decoder_start_token_id": 2,
        },
        "vision_config": {
            "embed_dim": [8, 16, 32, 32], "depths": [1, 1, 1, 1], "num_heads": [2, 2, 4, 4], "num_groups": [2, 2, 4, 4],
            "patch_size": [7, 3, 3, 3], "patch_stride": [4, 2, 2, 2], "patch_padding": [3, 1, 1, 1], "window_size": 4,
            "projection_dim": 32, "max_temporal_embeddings": 4, "max_position_embeddings": 10,
        },
        "image_token_id": 5, "is_encoder_decoder": True,
    }, IMAGE, "encoder-decoder", trap=True),
    Family("BERT", "BERT", "bert", {
        **WIDTH, "intermediate_size": 64, "num_attention_heads": 4, "max_position_embeddings": 64,
    }, MASKED, trap=True),
    Family("RoBERTa", "RoBERTa", "roberta", {
        **WIDTH, "intermediate_size": 64, "num_attention_heads": 4, "max_position_embeddings": 64,
    }, MASKED),
    Family("T5", "T5, Flan-T5", "t5", {
        "vocab_size": 128, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_decoder_layers": 2, "num_heads": 4,
        "pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0,
    }, "AutoModelForSeq2SeqLM", "encoder-decoder", trap=True),
    Family("Qwen 1", "Qwen 7B, 14B, 72B", "qwen", {
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "kv_channels": 8,
        "vocab_size": 128, "tie_word_embeddings": False,
    }, "", trap=True),
    Family("EXAONE 3.5", "EXAONE 3, 3.5", "exaone", {
        "hidden_size": 32, "intermediate_size": 64, "num_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "vocab_size": 128, "tie_word_embeddings": False,
    }, "", trap=True),
    Family("DeepSeek V1", "DeepSeek MoE 16B", "deepseek", {
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 128,
        "n_routed_experts": 4, "n_shared_experts": 2, "moe_intermediate_size": 16, "first_k_dense_replace": 1,
        "tie_word_embeddings": False,
    }, ""),
    Family("Phi 3 small", "Phi 3 small", "phi3small", {
        "hidden_size": 32, "ff_intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "vocab_size": 128, "tie_word_embeddings": True,
    }, ""),
    Family("RWKV 5", "RWKV 5 World, Eagle", "rwkv5", {
        "hidden_size": 32, "attention_hidden_size": 32, "num_hidden_layers": 2, "head_size": 8, "vocab_size": 128,
    }, ""),
    Family("RWKV 6", "RWKV 6 World, Finch", "rwkv6", {
        "hidden_size": 32, "attention_hidden_size": 32, "num_hidden_layers": 2, "head_size": 8, "vocab_size": 128,
    }, ""),
)  # fmt: skip

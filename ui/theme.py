"""Colors, corners and fonts of the page: those of the system, nothing from the net."""

from pathlib import Path

import gradio as gr

STYLE_SHEET = Path(__file__).resolve().parent.parent / "assets" / "style.css"
FONTS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif")
MONO_FONTS = ("ui-monospace", "Consolas", "monospace")


def build_theme() -> gr.themes.Base:
    """One accent, warm grays, 12 px corners, no shadows; the same in light and dark."""
    theme = gr.themes.Base(
        primary_hue=gr.themes.colors.teal,
        neutral_hue=gr.themes.colors.stone,
        radius_size=gr.themes.sizes.radius_lg,
        font=FONTS,
        font_mono=MONO_FONTS,
    )
    return theme.set(
        body_background_fill="#f7f7f5",
        body_background_fill_dark="#14181a",
        background_fill_primary_dark="#1b2023",
        block_background_fill="#ffffff",
        block_background_fill_dark="#1b2023",
        block_border_color="#e4e3df",
        block_border_color_dark="#2c3337",
        block_shadow="none",
        block_label_background_fill="transparent",
        block_label_background_fill_dark="transparent",
        block_info_text_color="#57534e",
        block_info_text_color_dark="#b8b2ab",
        body_text_color_subdued="#57534e",
        body_text_color_subdued_dark="#b8b2ab",
        button_primary_background_fill="#0f766e",
        button_primary_background_fill_hover="#0d5f58",
        button_primary_background_fill_dark="#2dd4bf",
        button_primary_background_fill_hover_dark="#5eead4",
        button_primary_text_color="#ffffff",
        button_primary_text_color_dark="#10211f",
        button_secondary_background_fill="transparent",
        button_secondary_background_fill_hover="#efeeea",
        button_secondary_background_fill_dark="transparent",
        button_secondary_background_fill_hover_dark="#242a2d",
        button_secondary_border_color="#d6d3d1",
        button_secondary_border_color_dark="#3a4247",
        button_border_width="1px",
        checkbox_label_background_fill="transparent",
        checkbox_label_background_fill_dark="transparent",
        checkbox_label_background_fill_selected="#e0f2ef",
        checkbox_label_background_fill_selected_dark="#17332f",
        checkbox_label_border_color="#d6d3d1",
        checkbox_label_border_color_dark="#3a4247",
        checkbox_label_border_width="1px",
        block_title_text_color="*body_text_color",
        block_title_text_color_dark="*body_text_color",
        block_title_text_weight="600",
        input_border_width="1px",
        input_background_fill="#ffffff",
        input_background_fill_dark="#14181a",
        input_border_color="#d6d3d1",
        input_border_color_dark="#3a4247",
        layout_gap="16px",
    )

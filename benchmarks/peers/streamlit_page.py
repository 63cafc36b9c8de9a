"""A plain Streamlit page: one text field, three charts."""

import streamlit as st
from _figures import FIRST, figures

market = st.text_input("Market", FIRST)
for figure in figures(market):
    st.plotly_chart(figure)

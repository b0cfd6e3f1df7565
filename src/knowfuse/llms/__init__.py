"""Where does an LLM come from, how does it read, what of it learns, and how is it split over GPUs?"""

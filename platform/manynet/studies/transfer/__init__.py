"""Does what was found for one device hold on another: what is compared, measured, and said of it."""

"""Small pictures of made-up products, drawn rather than downloaded."""

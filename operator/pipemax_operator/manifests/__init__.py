"""The children of an InferenceJob as plain documents. Pure: no client, no clock."""

"""What an AI is asked, as actions: it gives an answer, and changes nothing."""
